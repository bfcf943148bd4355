"""Videos with known content, for demos, training, tests and benchmarks.

cards, card_drawing   card videos with a right answer for every question
long_clip             a long clip for benchmarks
encoding              what both write with
"""
