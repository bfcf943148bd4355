"""The files of a request, as the decoder process gets them: open, from who asks.

Only the decoder process runs this.
"""

from collections.abc import Sequence
from typing import Self

from spava_app.engine.processes.wire import Wire
from spava_app.engine.video.media_file import MediaFile
from spava_app.engine.video.sandbox.pulse import Pulse
from spava_app.errors import decode_error

# Requested before they are needed: who gives them may be busy with frames that are done.
_AHEAD = 16


class Files:
    """Opens the files of a request, one after the other, for a `with` block.

    Args:
        wire: to who asked.
        paths: of the request, which the other side knows too.
        pulse: told of each file.
    """

    def __init__(self, wire: Wire, paths: Sequence[str], pulse: Pulse) -> None:
        self._wire, self._paths, self._pulse = wire, paths, pulse
        self._asked = self._given = 0
        self._file: MediaFile | None = None

    def open_next(self) -> MediaFile:
        """The next file; the one before is closed.

        Raises:
            VideoError: it cannot be opened, or was changed since it was looked at; or the one
                before was changed while it was read.
        """
        self._close(check=True)
        while self._asked < min(self._given + _AHEAD, len(self._paths)):
            self._wire.send({"open": self._asked})
            self._asked += 1
        self._pulse.rest()  # the other side comes for it when it has taken its frames
        message = self._wire.expect("opened")
        self._pulse.beat()
        if "error" in message:
            raise decode_error(message["error"])
        self._file = MediaFile(self._paths[self._given], self._wire.take_file())
        self._given += 1
        return self._file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._close(check=kind is None)

    def _close(self, *, check: bool) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        try:
            if check:
                file.check_still()
        finally:
            file.close()
