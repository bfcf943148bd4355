"""Ranks as processes that were started together, by torchrun, on one machine or several."""
