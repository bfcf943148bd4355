"""The multi-GPU engine: video front end, models, parallel prefill, KV cache, generation,
workers.
"""
