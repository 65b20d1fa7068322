"""Become the PostgreSQL server: drop privileges, tie the process to its supervisor, then exec.

Run as a script (``python -I -S embedded_launch.py PARENT UID GID PROGRAM ARGUMENT...``), never imported by the
product. A ``preexec_fn`` could do the same, but it runs Python code between fork and exec in a process that has
threads, which may deadlock, and uvloop can change neither user nor group. A program of its own has neither
problem, and costs about 15 ms. Nothing but the standard library is available here (``-I -S``).
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""From ``linux/prctl.h``."""

KEEP_USER = -1
"""UID that means: stay the user that you are."""


def drop_privileges(uid: int, gid: int) -> None:
    """Become ``uid`` and ``gid`` for good, with no supplementary groups."""
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def die_with(parent: int) -> None:
    """Ask Linux for a fast shutdown (SIGINT) of this process when the thread that forked it ends.

    The kernel forgets the wish whenever the credentials change, so it is made after privileges are dropped;
    exec of an ordinary program keeps it. Elsewhere than on Linux nothing is done: there a server left over by a
    killed supervisor is stopped by the next start.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGINT), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        # It died before the wish was made, so no signal will ever come.
        sys.exit("the supervisor ended before its PostgreSQL server started")


def main(arguments: list[str]) -> None:
    """Turn this process into ``PROGRAM``; returns only by raising."""
    parent, uid, gid = (int(number) for number in arguments[:3])
    if uid != KEEP_USER:
        drop_privileges(uid, gid)
    die_with(parent)
    # Python ignores these two, and an ignored signal stays ignored across exec.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.execv(arguments[3], arguments[3:])  # noqa: S606  # no shell is the point


if __name__ == "__main__":
    main(sys.argv[1:])
