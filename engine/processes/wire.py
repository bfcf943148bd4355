"""Messages between a process and its decoder process: JSON lines, with raw bytes behind some.

Neither side unpickles anything. Only one side asks; the other answers that and waits again.
"""

import json
import socket
import time
from collections import deque
from typing import Any

Message = dict[str, Any]
# What helps where a file is too much for the decoder, as the end of a sentence. In a codec that
# every ffmpeg writes, and in any size: by itself it takes one that wants even numbers.
CONVERT = "convert the file: ffmpeg -i video -c:v mpeg4 -q:v 2 out.mp4"

# Beyond these an answer is not from the decoder process as it was written.
_LONGEST_LINE, _LONGEST_PAYLOAD = 2**26, 2**29
_CHUNK = 2**18


class Disconnected(EOFError):
    """The other side is gone."""


class Wire:
    """One end of a Unix stream socket.

    Args:
        end: connected; owned from here on.
        takes_files: whether open files may come with messages; else they are closed.
    """

    def __init__(self, end: socket.socket, *, takes_files: bool = False) -> None:
        self._end, self._takes_files = end, takes_files
        self._buffer = bytearray()
        self._files: deque[int] = deque()
        self._kept: deque[Message] = deque()

    def close(self) -> None:
        self._end.close()

    def send(
        self,
        message: Message,
        payload: bytes = b"",
        *,
        file: int | None = None,
        within: float | None = None,
    ) -> None:
        """Send a message, the bytes that belong to it and an open file.

        Args:
            within: seconds after which TimeoutError is raised; by default never.

        Raises:
            OSError: the other side is gone.
        """
        if payload:
            message = message | {"bytes": len(payload)}
        self._end.settimeout(within)
        data = json.dumps(message).encode() + b"\n" + payload
        if file is not None:
            sent = socket.send_fds(self._end, [data], [file])
            data = data[sent:]
        self._end.sendall(data)

    def receive(self, *, within: float | None = None) -> tuple[Message, bytes]:
        """The next message and the bytes behind it.

        Args:
            within: seconds after which TimeoutError is raised; by default never.

        Raises:
            Disconnected, OSError: the other side is gone.
            ValueError: what came is not a message.
        """
        return (self._kept.popleft(), b"") if self._kept else self._next(within)

    def _next(self, within: float | None) -> tuple[Message, bytes]:
        until = None if within is None else time.monotonic() + within
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > _LONGEST_LINE:
                raise ValueError("a line without end")
            self._read(until)
        try:
            message = json.loads(self._take(end + 1))
        except RecursionError:
            raise ValueError("too deep") from None
        size = message.pop("bytes", 0) if isinstance(message, dict) else -1
        if not isinstance(size, int) or not 0 <= size <= _LONGEST_PAYLOAD:
            raise ValueError("not a message")
        while len(self._buffer) < size:
            self._read(until)
        return message, self._take(size)

    def expect(self, key: str) -> Message:
        """The next message that has this key; what comes before it is kept for `receive`, or for
        who expects that. Messages have no bytes behind them then.

        Raises:
            as `receive`.
        """
        for place, message in enumerate(self._kept):
            if key in message:
                del self._kept[place]
                return message
        while key not in (message := self._next(None)[0]):
            self._kept.append(message)
        return message

    def take_file(self) -> int:
        """The descriptor that came with a message; those of the first messages come first."""
        return self._files.popleft()

    def _read(self, until: float | None) -> None:
        if until is not None:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._end.settimeout(left)
        else:
            self._end.settimeout(None)
        if self._takes_files:
            data, files, _, _ = socket.recv_fds(self._end, _CHUNK, 1)
            self._files.extend(files)
        else:
            data = self._end.recv(_CHUNK)
        if not data:
            raise Disconnected
        self._buffer += data

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken
