"""Programs that shall not outlive us."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

# prctl(PR_SET_PDEATHSIG); who was orphaned before it asked ends at once.
_ASK = (
    "import ctypes, os, sys; number, parent, *argv = sys.argv[1:]; "
    "ctypes.CDLL(None).prctl(1, int(number), 0, 0, 0); "
    "os.getppid() == int(parent) and os.execv(argv[0], argv)"
)


def dying_with_us(argv: Sequence[str], number: signal.Signals) -> list[str]:
    """The command in such a way that the kernel sends it this signal when we are killed, where the
    kernel does that (Linux). Else pg_dump would wait for a lock, or fill a disk, for nobody.

    A few lines of Python ask for it and become the program; ``preexec_fn`` would run them in a fork
    of a process with threads, which may hang.
    """
    if sys.platform != "linux":
        return list(argv)
    return [sys.executable, "-I", "-S", "-c", _ASK, str(int(number)), str(os.getpid()), *argv]
