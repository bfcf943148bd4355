"""What config.json says of a model, checked as it is read, with transformers' defaults.

settings   values that are named with their file when they are wrong
decoder, rope, internvl   of decoders, of rotary frequencies (Llama 3.1, YaRN), of InternVL
"""
