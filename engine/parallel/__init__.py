"""Prefill methods: how attention over one prompt is spread over ranks. A file per method; no model,
no process and no file format belongs here.

    base            what a method is, the registry, and decoding, the same after every method
    work, buffers   what a method computes and sends in one layer, and the bytes it holds
    partials        partial attention packed for a collective and merged
    exact           what the exact methods share: the prompt in even blocks
    full            all on rank 0: the baseline
    ring, zigzag_ring   keys and values travel round a ring; plain, and balanced
    ulysses         from sequence shards to head shards and back
    blockwise, blockwise_work   what the approximate methods share: [anchor, passing, block]
    star, apb, spava    blocks alone; with passing blocks; with virtual hosts and a shared anchor
"""
