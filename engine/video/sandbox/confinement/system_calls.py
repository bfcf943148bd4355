"""What the decoder process may ask of the kernel: what decoding needs, and what is harmless.

Decoding works on memory, on threads of its own, and on files that are open already. So nothing
here opens, makes or renames a file, starts or reaches a process, makes a socket, or gives rights.
"""

import struct
from dataclasses import dataclass

# Numbers of x86-64 and of 64-bit ARM; None where there is no such call.
Numbers = tuple[int | None, int | None]

ALLOWED: dict[str, Numbers] = {
    # Files and sockets that are open
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "pread64": (17, 67),
    "preadv": (295, 69),
    "preadv2": (327, 286),
    "lseek": (8, 62),
    "close": (3, 57),
    "close_range": (436, 436),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "fstat": (5, 80),
    "fadvise64": (221, 223),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "shutdown": (48, 210),
    "getsockopt": (55, 209),
    "getsockname": (51, 204),
    "getpeername": (52, 205),
    "pipe": (22, None),
    "pipe2": (293, 59),
    "eventfd2": (290, 19),
    # Memory; that it cannot become code is checked below
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "brk": (12, 214),
    "mincore": (27, 232),
    "mlock": (149, 228),
    "munlock": (150, 229),
    "membarrier": (324, 283),
    "get_mempolicy": (239, 236),
    # Threads
    "futex": (202, 98),
    "futex_waitv": (449, 449),
    "futex_wake": (454, 454),
    "futex_wait": (455, 455),
    "futex_requeue": (456, 456),
    "set_robust_list": (273, 99),
    "set_tid_address": (218, 96),
    "rseq": (334, 293),
    "arch_prctl": (158, None),
    "gettid": (186, 178),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120),
    "sched_get_priority_max": (146, 125),
    "sched_get_priority_min": (147, 126),
    "getpriority": (140, 141),
    "exit": (60, 93),
    "exit_group": (231, 94),
    # Time, and the watchdog
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "times": (100, 153),
    "alarm": (37, None),
    "getitimer": (36, 102),
    "setitimer": (38, 103),
    # Signals; to whom is checked below
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136),
    "rt_sigsuspend": (130, 133),
    "rt_sigtimedwait": (128, 137),
    "sigaltstack": (131, 132),
    "pause": (34, None),
    "restart_syscall": (219, 128),
    # What it is and where it runs
    "getpid": (39, 172),
    "getppid": (110, 173),
    "getpgid": (121, 155),
    "getsid": (124, 156),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "getgroups": (115, 158),
    "getcpu": (309, 168),
    "getrandom": (318, 278),
    "getrlimit": (97, 163),
    "getrusage": (98, 165),
    "getcwd": (79, 17),
    "sysinfo": (99, 179),
    "uname": (63, 160),
}

# Answered as by a kernel that does not have them: the C library then asks in another way, one whose
# arguments can be seen.
MISSING: dict[str, Numbers] = {"clone3": (435, 435)}
# Beyond it, whatever it is, is newer than this list: libraries are ready for kernels without it.
NEWEST = 456


@dataclass(frozen=True)
class Condition:
    """What an argument must be.

    Attributes:
        word: which half of which argument: the lower one of the third is 4, its upper one 5.
        one_of: it must be one of these ...
        has, lacks: ... or have all of these bits, or none of those.
    """

    word: int
    one_of: tuple[int, ...] = ()
    has: int = 0
    lacks: int = 0


_PROT_EXEC = 4
_CLONE_THREAD = 0x10000
_AT_EMPTY_PATH = 0x1000
# Whether it is a terminal, whether it waits, whether it is inherited, how much there is to read.
_IOCTLS = (0x5401, 0x5421, 0x5450, 0x5451, 0x541B)
# Copies and flags of a descriptor, and seals; not who gets a signal when something comes.
_FCNTLS = (0, 1, 2, 3, 4, 1030, 1034)
# Names of threads and of memory, and what may be asked about dumps.
_PRCTLS = (15, 16, 0x53564D41, 3)


def rules(pid: int, *, code: bool) -> list[tuple[Numbers, list[Condition]]]:
    """The calls that depend on arguments, and all that must be true of these.

    Args:
        pid: of this process.
        code: whether new memory may hold code.
    """
    executable = 0 if code else _PROT_EXEC
    return [
        ((9, 222), [Condition(4, lacks=executable)]),  # mmap
        ((10, 226), [Condition(4, lacks=executable)]),  # mprotect
        ((56, 220), [Condition(0, has=_CLONE_THREAD)]),  # clone
        ((16, 29), [Condition(2, one_of=_IOCTLS)]),  # ioctl
        ((72, 25), [Condition(2, one_of=_FCNTLS)]),  # fcntl
        ((157, 167), [Condition(0, one_of=_PRCTLS)]),  # prctl
        ((62, 129), [Condition(0, one_of=(pid,))]),  # kill
        ((234, 131), [Condition(0, one_of=(pid,))]),  # tgkill
        # prlimit64: its own limits, without new ones
        ((302, 261), [Condition(word, one_of=(0,)) for word in (0, 4, 5)]),
        # fstat, as some C libraries make it. A path that is given with it is looked up too.
        ((262, 79), [Condition(6, has=_AT_EMPTY_PATH)]),  # newfstatat
        ((332, 291), [Condition(4, has=_AT_EMPTY_PATH)]),  # statx
    ]


# Classic BPF, as <linux/filter.h> has it; offsets in `struct seccomp_data`.
_LOAD, _EQUAL, _ABOVE, _SET, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


def program(machine: str, pid: int, *, code: bool) -> bytes | None:
    """The filter as instructions for the kernel; None for a machine whose numbers are not known.

    Args:
        machine: as `os.uname` says.
        pid, code: as for `rules`.
    """
    if machine not in _ARCHITECTURES:
        return None
    column, arch = _ARCHITECTURES[machine]
    lines = [
        _line(_LOAD, _ARCH_AT),
        _line(_EQUAL, arch, 1, 0),
        _line(_RETURN, _KILL),  # of another architecture the numbers mean other calls
        _line(_LOAD, _NUMBER_AT),
    ]
    for answer, calls in ((_ALLOW, ALLOWED), (_ERRNO | _ENOSYS, MISSING)):
        for numbers in calls.values():
            if (number := numbers[column]) is not None:
                lines += [_line(_EQUAL, number, 0, 1), _line(_RETURN, answer)]
    for numbers, conditions in rules(pid, code=code):
        number = numbers[column]
        assert number is not None
        checks = [line for condition in conditions for line in _checks(condition)]
        checks.append(_line(_RETURN, _ALLOW))
        lines += [_line(_EQUAL, number, 0, len(checks)), *checks]
    lines += [
        _line(_ABOVE, NEWEST, 0, 1),
        _line(_RETURN, _ERRNO | _ENOSYS),
        _line(_RETURN, _ERRNO | _EPERM),
    ]
    return b"".join(lines)


def _checks(condition: Condition) -> list[bytes]:
    """Go on behind them if it is true."""
    lines = [_line(_LOAD, _ARGUMENTS_AT + 4 * condition.word)]
    denied = _line(_RETURN, _ERRNO | _EPERM)
    for place, value in enumerate(condition.one_of):
        lines.append(_line(_EQUAL, value, len(condition.one_of) - place, 0))
    if condition.one_of:
        lines.append(denied)
    for bit in _bits(condition.has):
        lines += [_line(_SET, bit, 1, 0), denied]
    if condition.lacks:
        lines += [_line(_SET, condition.lacks, 0, 1), denied]
    return lines


def _bits(value: int) -> list[int]:
    return [1 << place for place in range(value.bit_length()) if value >> place & 1]


def _line(code: int, value: int, when_true: int = 0, when_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, when_true, when_false, value)
