"""From decoded frames to what a tower takes.

config    what a checkpoint asks of its pixels
patches   resize, normalise, cut into patches
tiles     frames as InternVL tiles
"""
