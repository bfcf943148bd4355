"""Whether this process was forked from one that had imported this package. A leaf.

torch's threads do not survive a fork: whoever waits for them in the child waits for ever. Workers,
decoders and temporary folders belong to the parent, which goes on using them.
"""

import os
import sys

from spava_app.errors import EngineError

# `spava_app` imports this module, so it is the process that first imported the package.
_owner = os.getpid()
# multiprocessing's fork server imports what a script imports and uses nothing of it: of the
# processes it forks, each is as one that has imported the package itself.
_is_server = any("multiprocessing.forkserver" in word for word in sys.orig_argv)


def is_forked() -> bool:
    """Whether another process, from which this one was forked, has imported the package."""
    global _owner, _is_server
    if _is_server and os.getpid() != _owner:
        _owner, _is_server = os.getpid(), False
    return os.getpid() != _owner


def check_not_forked() -> None:
    """Raise EngineError in a forked process."""
    if is_forked():
        raise EngineError(
            "this process was forked from one that uses spava_app: start it with the spawn method "
            "(multiprocessing.get_context('spawn'))"
        )
