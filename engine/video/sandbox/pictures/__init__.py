"""Picture files and animated pictures, read by Pillow.

picture      size and pixels of a picture file
signature    a picture format by a file's first bytes
on_white     each of Pillow's modes as 8-bit RGB, on white where it is transparent
animation    animated WebP, PNG and AVIF and the pages of a TIFF, as videos
spans, apng  how long animated pictures stay; how those of a PNG are composed
"""
