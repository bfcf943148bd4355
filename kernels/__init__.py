"""Tensors in, tensors out: no rank, no model, no file.

attention   softmax attention that returns a true log-sum-exp, over one of `backends/`
lse         merging partial attention
select      top-k of keys by a query
rope, gated, windows   rotary embedding, SwiGLU, attention in windows
fused, triton_elementwise   whether fused kernels serve a tensor; the kernels
bench/      `python -m spava_app.kernels.bench`
"""
