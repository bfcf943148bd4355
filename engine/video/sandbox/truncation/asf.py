"""ASF, that is WMV: objects."""

from uuid import UUID

from spava_app.engine.video.sandbox.truncation.parts import Ends, Parts

_HEADER = UUID("75b22630-668e-11cf-a6d9-00aa0062ce6c").bytes_le
_PROPERTIES = UUID("8cabdca1-a947-11cf-8ee4-00c00c205365").bytes_le
_MOST_OBJECTS = 1000


def ends(file: Parts) -> Ends:
    """Where its properties say that the file ends, unless it was broadcast."""
    if file.read(0, 16) != _HEADER:
        return
    at = 30
    for _ in range(_MOST_OBJECTS):
        size = file.little(at + 16, 8)
        if file.read(at, 16) == _PROPERTIES:
            broadcast = file.little(at + 88, 4) & 1
            yield 0 if broadcast else file.little(at + 40, 8)
        if size < 24:
            return
        at += size
