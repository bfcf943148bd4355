"""What a command writes to stderr besides the line of each stage."""

import re

_STAGE = re.compile(r"^[\w ]+ \d+\.\d\d s\n", re.MULTILINE)


def without_stages(stderr: str) -> str:
    """`stderr` of a command on a pipe, without the lines that say how long its stages took."""
    return _STAGE.sub("", stderr)
