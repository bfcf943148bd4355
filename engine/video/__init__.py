"""From a video file to patches: probe, sample, decode, preprocess."""
