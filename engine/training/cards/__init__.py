"""The embedded model, a tiny Qwen2.5-VL that reads coloured cards:
`python -m spava_app.engine.training.cards.train`.

    assets        its tokenizer and settings
    questions, clips   what it is asked, about which clips
    packing, curriculum, task   batches, their order, what is learnt
    train         the command
"""
