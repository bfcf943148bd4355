"""Reading model folders: bounded files, and settings that are checked as they are read. What a
setting means for a model stands with that model, not here.
"""
