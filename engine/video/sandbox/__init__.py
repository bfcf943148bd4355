"""The other side of the wall: a process without rights, in which media files are parsed and
decoded. Nobody imports this package; `decoder_process` starts it. Only here (and in `synthetic`)
is `av`.

    server, service   the process: limits, then requests
    inspect           what a file is
    reader, backends  from time stamps to pictures, seeking only where it saves work; other decoders
    files, pulse      the files of a request; signs of life
"""
