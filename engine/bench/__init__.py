"""The engine's benchmark: `python -m spava_app.engine.bench`."""
