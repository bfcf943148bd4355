"""The decoder process gives up all that decoding does not need, before it sees a file.

What code that a broken file makes run in it can still do: use processor time, threads and memory
within its limits; read the files of the request it was given; write anything into the ring of
frames, and so lie about what a video shows; send any message to who asked, who believes none of
them blindly; and ask for the size and dates of a file whose name it knows. Where the kernel lacks a
measure the others hold, and `spava doctor` says which do.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spava_app.engine.video.sandbox.confinement.system_calls import program

# A measure, whether it holds, and its version or why it does not.
Measure = tuple[str, bool, str]

_SET_DUMPABLE, _SET_NO_NEW_PRIVS = 4, 38
_CAPABILITY_VERSION = 0x20080522
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_FILTER, _ALL_THREADS = 1, 1
_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446
_LANDLOCK_VERSION = 1
# Rights over files that each version of Landlock knows: reading, writing, running, making and
# removing; then moving; truncating; device commands. All that is named and not given is denied.
_FILE_RIGHTS = {1: 2**13 - 1, 2: 2**14 - 1, 3: 2**15 - 1, 5: 2**16 - 1}
_TCP_SINCE, _TCP = 4, 0b11  # to bind, to connect
_SCOPES_SINCE, _SCOPES = 6, 0b11  # abstract Unix sockets and signals, to others


def lock_down() -> list[Measure]:
    """Give up all rights, for good. All that is to be loaded must be.

    Returns:
        What holds and what does not.
    """
    measures = {
        "no new privileges": _no_new_privileges,
        "no capabilities": _no_capabilities,
        "not dumpable": _not_dumpable,
        "Landlock": _landlock,
        "seccomp": _seccomp,  # last: it denies the others
    }
    return [_tried(name, measure) for name, measure in measures.items()]


def _tried(name: str, measure: Callable[[], str]) -> Measure:
    if sys.platform != "linux":
        return name, False, "only Linux has it"
    try:
        return name, True, measure()
    except OSError as error:
        return name, False, error.strerror or str(error)


def _no_new_privileges() -> str:
    """No program that it may start has more rights than it."""
    _prctl(_SET_NO_NEW_PRIVS, 1)
    return ""


def _no_capabilities() -> str:
    """Of an administrator's rights none is left."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    _checked(ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()))
    return ""


def _not_dumpable() -> str:
    """No core dumps, and its memory is for nobody of the same user."""
    _prctl(_SET_DUMPABLE, 0)
    return ""


def _landlock() -> str:
    """No file by its name, no TCP, and nobody else to send to."""
    version = _call(_LANDLOCK_CREATE, None, 0, _LANDLOCK_VERSION)
    files = _FILE_RIGHTS[max(known for known in _FILE_RIGHTS if known <= version)]
    tcp = _TCP if version >= _TCP_SINCE else 0
    scopes = _SCOPES if version >= _SCOPES_SINCE else 0
    handled = (ctypes.c_uint64 * 3)(files, tcp, scopes)
    rules = _call(_LANDLOCK_CREATE, handled, ctypes.sizeof(handled), 0)
    try:
        _call(_LANDLOCK_RESTRICT, rules, 0)
    finally:
        os.close(rules)
    return str(version)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("lines", ctypes.c_char_p))


def _seccomp() -> str:
    """No calls of the kernel but those of `system_calls`."""
    machine = os.uname().machine
    code = program(machine, os.getpid(), code=_has_executable_stacks())
    if code is None or sys.maxsize < 2**32 or sys.byteorder != "little":
        raise OSError(f"not for {machine}")
    filled = _Program(len(code) // 8, code)
    _call(_SECCOMP[machine], _FILTER, _ALL_THREADS, ctypes.byref(filled))
    return ""


def _has_executable_stacks() -> bool:
    """Whether a library made this process one whose threads need memory that may hold code."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return False
    return any(line.endswith("[stack]") and "x" in line.split()[1] for line in lines)


def _prctl(what: int, value: int) -> None:
    words = map(ctypes.c_ulong, (value, 0, 0, 0))
    _checked(ctypes.CDLL(None, use_errno=True).prctl(what, *words))


def _call(number: int, *arguments: Any) -> int:
    words = [ctypes.c_long(it) if isinstance(it, int) else it for it in arguments]
    return _checked(ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *words))


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
