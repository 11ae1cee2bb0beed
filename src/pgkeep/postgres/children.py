"""Programs that shall not outlive us."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import NamedTuple

# prctl(PR_SET_PDEATHSIG); who was orphaned before it asked ends at once. Another user is become
# before: the kernel forgets the wish of a process that changes its user.
_ASK = """\
import ctypes, os, sys
number, parent, user, *argv = sys.argv[1:]
prctl = ctypes.CDLL(None).prctl
if user:
    uid, gid, *groups = map(int, user.split())
    os.setgroups(groups)
    os.setgid(gid)
    os.setuid(uid)
prctl(1, int(number), 0, 0, 0)
if os.getppid() == int(parent):
    os.execv(argv[0], argv)
"""


class User(NamedTuple):
    """As whom a program runs; ``groups`` are all that he is in."""

    uid: int
    gid: int
    groups: Sequence[int]


def dying_with_us(
    argv: Sequence[str], number: signal.Signals, *, user: User | None = None
) -> list[str]:
    """The command in such a way that the kernel sends it this signal when we are killed, where the
    kernel does that (Linux). Else pg_dump would wait for a lock, or fill a disk, for nobody.

    A few lines of Python ask for it and become the program; ``preexec_fn`` would run them in a fork
    of a process with threads, which may hang. As root they also become the ``user``: only
    afterwards, for our own Python may lie where he cannot go. (On other systems ``Popen`` has to
    do that.)
    """
    if sys.platform != "linux":
        return list(argv)
    who = "" if user is None else " ".join(map(str, (user.uid, user.gid, *user.groups)))
    asking = [sys.executable, "-I", "-S", "-c", _ASK, str(int(number)), str(os.getpid()), who]
    return [*asking, *argv]
