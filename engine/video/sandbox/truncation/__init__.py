"""Whether bytes are missing at a file's end, by its container's structure: one file per container
(`parts` is what they share), and `cut_short`, which asks them.
"""
