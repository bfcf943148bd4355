"""Containers and their streams: packets, times, key frames. Nothing is decoded here.

source        opening a video: the one place that knows the container library
packets       when each frame shows, from packets
clock         time stamps that go on where a recording's clock jumps
key_frames    what a packet's first bytes say
streams       which of several streams is shown
orientation   the eight ways a picture is rotated and mirrored
"""
