"""What tests of the SFTP store share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pgkeep.storage.sftp import SftpStore
from tests.sshd import Sshd


def open_store(sshd: Sshd, path: Path | None = None, **options: Any) -> SftpStore:
    """A store on the server; in a new directory, unless told otherwise."""
    known = {"key_file": str(sshd.key_file), "known_hosts": str(sshd.known_hosts)}
    return SftpStore(
        sshd.url(path or sshd.new_directory()), **({"create": path is None} | known | options)
    )


def files(path: Path) -> list[str]:
    """All files below, our own among them."""
    return sorted(str(found.relative_to(path)) for found in path.rglob("*") if found.is_file())


def directory_of(store: SftpStore) -> Path:
    """Where the store's objects lie on this machine."""
    return Path("/" + store.url.split("/", 3)[3])
