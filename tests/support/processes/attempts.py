"""What hostile code inside the decoder process might try, and what comes of it.

Run in a process that is locked down already: loaded before, for nothing can be imported then.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)
# Numbers of x86-64 and of 64-bit ARM.
_NUMBERS = {
    "openat2": (437, 437),
    "execveat": (322, 281),
    "fork": (57, None),
    "clone3": (435, 435),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "memfd_create": (319, 279),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "unshare": (272, 97),
    "prlimit64": (302, 261),
    "setns": (308, 268),
    "mount": (165, 40),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "kcmp": (312, 272),
    "process_madvise": (440, 440),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "inotify_init1": (294, 26),
    "mq_open": (240, 180),
    "shmget": (29, 194),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
}
_COLUMN = 0 if os.uname().machine == "x86_64" else 1
_PTRACE_ATTACH, _KEYCTL_GET, _CLONE_VM, _NEW_USER = 16, 0, 0x100, 0x10000000
_DUMPABLE = 4


def tries(media: int, secret: str, folder: str) -> dict[str, Callable[[], Any]]:
    """All attempts by name; each raises OSError where it is denied.

    Args:
        media: the descriptor that the process was given.
        secret: a file of the user.
        folder: of the user, where files may be written.
    """
    parent, new = os.getppid(), os.path.join(folder, "new")
    pages = ctypes.create_string_buffer(64)
    files = {
        "read a file": lambda: open(secret).read(),  # noqa: SIM115
        "read by openat2": lambda: _call(
            "openat2", -100, secret.encode(), (ctypes.c_uint64 * 3)(), 24
        ),
        "read /etc/passwd": lambda: os.open("/etc/passwd", os.O_RDONLY),
        "open the media file again": lambda: os.open(f"/proc/self/fd/{media}", os.O_RDONLY),
        "open it for writing": lambda: os.open(f"/proc/self/fd/{media}", os.O_RDWR),
        "list a folder": lambda: os.listdir(folder),
        "write a file": lambda: os.open(new, os.O_WRONLY | os.O_CREAT),
        "a file without a name": lambda: os.open(folder, os.O_TMPFILE | os.O_RDWR),
        "overwrite a file": lambda: os.open(secret, os.O_WRONLY | os.O_TRUNC),
        "unlink": lambda: os.unlink(secret),
        "rename": lambda: os.rename(secret, new),
        "link": lambda: os.link(secret, new),
        "symlink": lambda: os.symlink(secret, new),
        "a new folder": lambda: os.mkdir(new),
        "a pipe with a name": lambda: os.mkfifo(new),
        "truncate": lambda: os.truncate(secret, 0),
        "write through the descriptor": lambda: os.write(media, b"x"),
        "write at a place": lambda: os.pwrite(media, b"x", 0),
        "truncate the descriptor": lambda: os.ftruncate(media, 0),
        "map it for writing": lambda: mmap.mmap(media, 1, mmap.MAP_SHARED),
        "/proc/self/environ": lambda: open("/proc/self/environ").read(),  # noqa: SIM115
        "/proc/self/mem": lambda: os.open("/proc/self/mem", os.O_RDWR),
        "the parent's memory": lambda: os.open(f"/proc/{parent}/mem", os.O_RDWR),
        "the parent's environment": lambda: os.open(f"/proc/{parent}/environ", os.O_RDONLY),
        "the parent's descriptors": lambda: os.listdir(f"/proc/{parent}/fd"),
        "a file by its handle": lambda: _call("open_by_handle_at", -100, pages, 0),
    }
    attributes = {
        "chmod": lambda: os.chmod(secret, 0o777),
        "chmod by the descriptor": lambda: os.fchmod(media, 0o777),
        "chown": lambda: os.chown(secret, 0, 0),
        "dates": lambda: os.utime(secret),
        "an extended attribute": lambda: os.setxattr(secret, "user.x", b"x"),
        "change the folder": lambda: os.chdir("/"),
        "where a link leads": lambda: os.readlink("/proc/self/exe"),
        "a file's handle": lambda: _call(
            "name_to_handle_at", -100, secret.encode(), pages, pages, 0
        ),
        "watch files": lambda: _call("inotify_init1", 0),
    }
    tcp = {
        "connect by TCP": lambda: _connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 9)),
        "listen by TCP": lambda: _listen(socket.AF_INET, ("127.0.0.1", 0)),
    }
    sockets = {
        "send by UDP": lambda: _connect(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 9)),
        "listen on a Unix socket": lambda: _listen(socket.AF_UNIX, "\0spava-attempt"),
        "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0),
        "raw packets": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0),
        "a pair of sockets": lambda: socket.socketpair(),
    }
    others = {
        "attach to the parent": lambda: _call("ptrace", _PTRACE_ATTACH, parent, 0, 0),
        "read the parent's memory": lambda: _memory("process_vm_readv", parent),
        "write the parent's memory": lambda: _memory("process_vm_writev", parent),
        "is the parent there": lambda: os.kill(parent, 0),
        "end the parent": lambda: os.kill(parent, signal.SIGWINCH),
        "end a thread of the parent": lambda: _call("tkill", parent, signal.SIGWINCH),
        "queue a signal": lambda: _call("rt_sigqueueinfo", parent, signal.SIGWINCH, pages),
        "a signal by a socket's owner": lambda: _own(parent),
    }
    reach = {
        "the parent's limits": lambda: resource.prlimit(parent, resource.RLIMIT_NOFILE),
        "the parent's descriptors by pidfd": lambda: _call(
            "pidfd_getfd", _call("pidfd_open", parent, 0), 0, 0
        ),
        "the parent's priority": lambda: os.setpriority(os.PRIO_PROCESS, parent, 5),
        "the parent's cores": lambda: os.sched_setaffinity(parent, {0}),
        "compare with the parent": lambda: _call("kcmp", os.getpid(), parent, 0, 0, 0),
        "new limits": lambda: _call(
            "prlimit64", 0, resource.RLIMIT_FSIZE, (ctypes.c_uint64 * 2)(10, 10), None
        ),
    }
    processes = {
        "fork": lambda: _child(os.fork),
        "fork by its number": lambda: _child(lambda: _call("fork")),
        "clone3": lambda: _child(lambda: _call("clone3", (ctypes.c_uint64 * 8)(), 64)),
    }
    programs = {
        "run a program": lambda: os.execv("/bin/true", ["true"]),
        "run it by a descriptor": lambda: _call(
            "execveat", -100, b"/bin/true", (ctypes.c_char_p * 1)(), (ctypes.c_char_p * 1)(), 0
        ),
    }
    memory = {
        "memory without a file": lambda: _call("memfd_create", b"x", 0),
        "memory that runs": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_EXEC | mmap.PROT_READ),
        "the file as code": lambda: mmap.mmap(
            media, 1, mmap.MAP_PRIVATE, mmap.PROT_EXEC | mmap.PROT_READ
        ),
        "memory made to run": _made_to_run,
        "a page fault's answer": lambda: _call("userfaultfd", 0),
    }
    kernel = {
        "io_uring": lambda: _call("io_uring_setup", 1, (ctypes.c_uint32 * 30)()),
        "bpf": lambda: _call("bpf", 5, (ctypes.c_uint64 * 16)(), 128),
        "a key": lambda: _call("keyctl", _KEYCTL_GET, -3, 1),
        "a new key": lambda: _call("add_key", b"user", b"x", b"x", 1, -3),
        "a namespace": lambda: _call("unshare", _NEW_USER),
        "another's namespace": lambda: _call("setns", media, 0),
        "mount": lambda: _call("mount", b"none", folder.encode(), b"tmpfs", 0, 0),
        "performance counters": lambda: _call("perf_event_open", (ctypes.c_uint64 * 16)(), 0),
        "another personality": lambda: _call("personality", 0x0400000),
        "a message queue": lambda: _call("mq_open", b"x", 0o102, 0o600, 0),
        "shared memory": lambda: _call("shmget", 0, 4096, 0o1600),
        "core dumps again": lambda: _checked(_LIBC.prctl(_DUMPABLE, 1, 0, 0, 0)),
    }
    groups = {
        "files": files,
        "attributes": attributes,
        "tcp": tcp,
        "sockets": sockets,
        "others": others,
        "reach": reach,
        "processes": processes,
        "programs": programs,
        "memory": memory,
        "kernel": kernel,
    }
    return {f"{group}: {name}": act for group, acts in groups.items() for name, act in acts.items()}


def outcomes(acts: dict[str, Callable[[], Any]]) -> dict[str, str]:
    """Of each attempt the name of its error, or "done"."""
    return {name: _outcome(act) for name, act in acts.items()}


def is_open(number: int) -> bool:
    """Whether there is a descriptor of this number."""
    return _outcome(lambda: os.fstat(number)) == "done"


def _outcome(act: Callable[[], Any]) -> str:
    try:
        act()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "done"


def _call(name: str, *arguments: Any) -> int:
    number = _NUMBERS[name][_COLUMN]
    if number is None:
        raise OSError(errno.ENOSYS, "no such call here")
    words = [ctypes.c_long(it) if isinstance(it, int) else it for it in arguments]
    return _checked(_LIBC.syscall(ctypes.c_long(number), *words))


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _child(fork: Callable[[], int]) -> None:
    if (pid := fork()) == 0:
        os._exit(0)
    with suppress(OSError):  # to wait may be denied when to fork was not
        os.waitpid(pid, 0)


def _connect(family: int, kind: int, address: Any) -> None:
    """Connected, or refused by the other end: it was reached."""
    with socket.socket(family, kind) as end:
        try:
            end.connect(address)
            end.send(b"x")
        except ConnectionRefusedError:
            return


def _listen(family: int, address: Any) -> None:
    with socket.socket(family) as end:
        end.bind(address)
        end.listen()


def _memory(name: str, pid: int) -> None:
    """A byte at an address of this process, which the parent may not have: EFAULT is no denial."""
    mine = ctypes.create_string_buffer(8)
    span = (ctypes.c_uint64 * 2)(ctypes.addressof(mine), 1)
    try:
        _call(name, pid, span, 1, span, 1, 0)
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise


def _own(pid: int) -> None:
    fcntl.fcntl(0, fcntl.F_SETOWN, pid)


def _made_to_run() -> None:
    with mmap.mmap(-1, 4096) as page:
        start = ctypes.addressof(ctypes.c_char.from_buffer(page))
        _checked(_LIBC.mprotect(ctypes.c_void_p(start), 4096, mmap.PROT_EXEC | mmap.PROT_READ))
