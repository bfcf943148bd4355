"""The commands of `spava`, one per file."""
