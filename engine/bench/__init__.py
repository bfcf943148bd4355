"""Benchmarks of the engine, on the path that answers users: `python -m spava_app.engine.bench`.

cases, rank, group, report, host_memory   prefill and tokens beside FLOPs and predictions
frames    from a file to embeddings on several ranks
vision    the towers' TFLOP/s beside a matmul of the same run
video, video_ways    from a file to pixels beside other decoders
"""
