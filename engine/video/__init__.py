"""Videos and pictures on this side of the wall: what is known of a file, which frames are chosen,
and frames as they come. Nothing here opens a container or decodes: that is `sandbox`, another
process.

    probe, frame_index    what a file is; when each frame shows, and from where it is decoded
    sample, frame_rules   which frames are chosen: by time; by the rules of benchmarks
    frames, array_files   folders and lists of pictures; arrays, passed to ranks as descriptors
    decode, shared_ring   frames through shared memory, ahead of the one who takes them
    decoder_process, decoder_exit   the process from outside: deadlines, and why it ended
    media_file            opening the files that users name, for a process that opens none
    picture_formats, card_mark      pictures of a folder; how our own card videos are known
"""
