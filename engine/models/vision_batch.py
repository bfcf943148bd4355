"""How much a vision tower is given at a time: enough to be fast, little enough for memory."""

# Patches that become one token, in all supported towers.
PATCHES_PER_TOKEN = 4
# Past these more give no speed, only memory: about 28 KB each in bfloat16, twice that in float32.
# On a CPU fewer are faster: they stay in its caches.
PATCHES_PER_CALL = {"cuda": 2**16, "cpu": 2**12}
# Units, or tiles, of a call: what follows waits for all of them.
MAX_UNITS = 64


def units_per_call(unit_patches: int, device: str) -> int:
    """Units of so many patches to decode, prepare and encode at a time on a type of device."""
    return max(1, min(MAX_UNITS, PATCHES_PER_CALL[device] // unit_patches))
