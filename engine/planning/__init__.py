"""What a request will take, before any worker sees it: seconds, bytes and the method. Nothing here
runs a model but `calibration`.

    plan               what will be done for a question, in numbers a person can check
    predictor          seconds and bytes of a request, from the sizes of a model alone
    method_choice      which prefill method serves a prompt best
    memory             each rank's memory, part by part
    decoder_time, encoder_time, video_time   seconds of prefill and tokens, of encoding, of decoding
    hardware, hardware_profiles   a machine's rates; defaults, and those that were measured
    calibration/       measures a machine's rates, in processes of their own
"""
