"""The engine: from a request, fully decided, to tokens, on every rank together.

This folder holds the nouns that all parts share and one request on one rank (`runner`); each part
is a folder. Nothing of the application belongs here: no prompts, options or terminal.

    layout         where every token of a prompt lives: plain integers, testable by enumeration
    comm           how ranks talk: the only file that issues collectives
    kv_cache       one rank's share of the cache; each position is on exactly one rank
    media          videos and pictures of a prompt, and where their chosen frames lie
    request        what the driver sends to every rank
    runner         one request on one rank: encoder, prefill, token loop
    sampling, sampler   how tokens are chosen; from logits to a token
    timing         seconds per stage, and when a stage's ranks count as hung
    flops          FLOPs of a decoder's prefill and tokens
    devices        GPUs, memory and cores, asked of the system and never of CUDA
    folders        private, temporary and cache folders
    serialization  dataclasses back from JSON
"""
