"""Whether the memory is here that the server takes when it starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pgkeep.restore.memory_here import MemoryHere
from pgkeep.units import format_size

# What Docker and Podman give a container that is not told otherwise.
_CONTAINER_DEFAULT = 64 << 20


def memory_misfits(server: Mapping[str, Any], here: MemoryHere) -> Iterator[str]:
    """Warnings, each with what to do. Backups made before the facts were kept do not say them."""
    needed = server.get("shared_memory_bytes")
    if isinstance(needed, int):
        if here.total is not None and needed > here.total:
            yield (
                f"The server takes {format_size(needed)} of shared memory when it starts, and this "
                f"machine has {format_size(here.total)}: it does not start here until "
                "shared_buffers is smaller."
            )
        if server.get("huge_pages") == "on" and here.huge is not None and needed > here.huge:
            yield (
                f"The server wants {format_size(needed)} in huge pages, and this machine has "
                f"{format_size(here.huge)} of them: it does not start here until vm.nr_hugepages "
                "is raised, or huge_pages is try."
            )
    small = here.dynamic is not None and here.dynamic <= _CONTAINER_DEFAULT
    if small and server.get("dynamic_shared_memory_type") == "posix":
        yield (
            f"/dev/shm has {format_size(here.dynamic or 0)} here, as containers have it: parallel "
            'queries may end with "could not resize shared memory segment". Give the container '
            "more (docker run --shm-size=1g)."
        )
