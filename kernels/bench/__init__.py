"""`python -m spava_app.kernels.bench`: TFLOP/s beside a matmul of the same run.

layer_share   what selection costs beside attention
stopwatch     timing with CUDA events, or on a CPU
"""
