"""Benchmarks: LongVideoBench, VNBench, synthetic tasks and speed."""
