"""`python -m spava_app.kernels.bench`: TFLOP/s beside a matmul of the same run.

harness       devices and types, versions, and the matrix product to compare with
layer_share   what selection costs beside attention
stopwatch     timing with CUDA events, or on a CPU
"""
