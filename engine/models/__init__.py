"""Models: towers and decoders as torch modules, their published names and their sizes. A family of
vision-language models is one file; how a prompt is spread over ranks is none of their business.

    registry        models by architecture
    decoder         Qwen2, Qwen2.5-VL, Llama and Yi decoders over any subset of a prompt's rows
    causal_lm       a decoder alone, for text
    qwen2_5_vl, internvl3   vision towers, and the models that join them to a decoder
    positions       multimodal rotary positions with true timestamps
    published       which published tensor fills which rows
    vision_batch    how many units a tower is given at a time
    flops           FLOPs of the vision towers
    geometries      sizes of the models that are measured
"""
