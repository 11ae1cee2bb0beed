"""How many processors this process may use."""

from __future__ import annotations

import os

_ROOT = "/sys/fs/cgroup"
_OWN = "/proc/self/cgroup"


def available_cores(*, root: str = _ROOT, own: str = _OWN) -> int:
    """Processors that this process may use: its affinity, and its cgroup's quota, rounded up.

    ``root`` is where cgroups are mounted, ``own`` the file that says which is this process's.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min([cores, *_quotas(root, own)]))


def _quotas(root: str, own: str) -> list[int]:
    """Whole processors of each quota that holds: in a container the cgroup's own stands at the
    root, of a systemd unit below it, and that of any slice above it counts as well."""
    folders = [root]
    for part in _path_of(own).split("/"):
        if part and part != "..":
            folders.append(f"{folders[-1]}/{part}")
    found = [_quota(_read(f"{folder}/cpu.max").split()) for folder in folders]
    # Version 1 of cgroups.
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    found.append(_quota([_read(f"{root}/cpu/{name}").strip() for name in names]))
    return [one for one in found if one is not None]


def _path_of(own: str) -> str:
    """This process's cgroup in version 2, whose line is ``0::/path``."""
    for line in _read(own).splitlines():
        if line.startswith("0::"):
            return line[3:]
    return ""


def _quota(words: list[str]) -> int | None:
    """Of "quota period" in microseconds; None where there is no bound ("max", or -1)."""
    if len(words) != 2 or not all(word.isdigit() for word in words) or int(words[1]) == 0:
        return None
    return max(1, -(-int(words[0]) // int(words[1])))


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
