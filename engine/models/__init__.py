"""Single-device model code: decoders and vision towers that never ask for their rank."""
