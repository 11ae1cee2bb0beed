"""Which host keys are believed, and what is said of one that is not.

Only those of known_hosts files are. A key is never taken on trust at the first meeting, as a
person at a terminal may do: nobody looks when a scheduler runs, and whoever stands in between
would from then on be believed.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from pgkeep.errors import ConfigError, StoreDenied
from pgkeep.storage._sftp_address import DEFAULT_PORT, Address
from pgkeep.storage._sftp_library import asyncssh

_SYSTEM_FILE = Path("/etc/ssh/ssh_known_hosts")


class KnownHosts:
    """The keys in ``file``, or else in the user's and the system's files.

    Raises ``ConfigError`` when a file that was named cannot be read, or one is malformed.
    """

    def __init__(self, file: str | None) -> None:
        self.files = [file] if file is not None else _usual_files()
        self.keys = asyncssh.import_known_hosts("")
        for name in self.files:
            self._load(name)

    def keys_of(self, address: Address, peer: str) -> list[asyncssh.SSHKey]:
        """What is known of the server, by its name or the numeric address ``peer``."""
        found, *_ = self.keys.match(address.host, peer, _port(address))
        return [*dict.fromkeys(found)]  # by its name and by its address

    def _load(self, name: str) -> None:
        try:
            self.keys.load(Path(name).read_text(encoding="utf-8", errors="replace"))
        except OSError as error:
            raise ConfigError(
                f"The file of known hosts {name} cannot be read.",
                why=f"The system says: {error.strerror}.",
                remedy="Name a file that the user that pgkeep runs as can read.",
            ) from error
        except ValueError as error:
            raise ConfigError(
                f"The file of known hosts {name} is malformed.",
                why=f"{error}.",
                remedy="Mend or remove that line; its format is in sshd(8), SSH_KNOWN_HOSTS.",
            ) from error


class Witness(asyncssh.SSHClient):
    """Remembers the key that the server showed and no file vouches for."""

    def __init__(self) -> None:
        self.shown: asyncssh.SSHKey | None = None
        self.peer = ""

    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        """Called for a key that is in no file; it stays unbelieved."""
        self.shown, self.peer = key, addr
        return False


def refusal(address: Address, hosts: KnownHosts, witness: Witness) -> StoreDenied:
    """What to say of a server whose key is not believed."""
    known = hosts.keys_of(address, witness.peer)
    files = " and ".join(hosts.files) or "No file of known hosts is there, so nothing"
    if witness.shown is None:
        return StoreDenied(
            f"The host key of {address.server} is not believed, and nothing was sent.",
            why=f"It has no key of a kind that {files} knows of it, or one that is revoked.",
            remedy=_changed(address, hosts),
        )
    shown = f"{_kind(witness.shown)} key {witness.shown.get_fingerprint()}"
    if known:
        kept = ", ".join(f"{_kind(key)} {key.get_fingerprint()}" for key in known)
        return StoreDenied(
            f"The host key of {address.server} is another one than before, and nothing was sent.",
            why=f"It shows the {shown}; known is {kept}. Somebody may stand in between.",
            remedy=_changed(address, hosts),
            fingerprint=witness.shown.get_fingerprint(),
        )
    line = f"{address.known_as} {witness.shown.export_public_key().decode().strip()}"
    return StoreDenied(
        f"The host key of {address.server} is not known here, and nothing was sent.",
        why=f"It shows the {shown}. {_silent(hosts)}",
        remedy=f"Compare that fingerprint with what 'ssh-keygen -lf' says of the key on the "
        f"server. If it is the same, add this line to {_place_to_add(hosts)}: {line}",
        fingerprint=witness.shown.get_fingerprint(),
    )


def _changed(address: Address, hosts: KnownHosts) -> str:
    file = hosts.files[0] if hosts.files else _place_to_add(hosts)
    return (
        f"Ask the server's owner. If its key was replaced on purpose, forget the old one with "
        f"ssh-keygen -R '{address.known_as}' -f {file}, and add the new one."
    )


def _silent(hosts: KnownHosts) -> str:
    if not hosts.files:
        return "There is no file of known hosts here."
    return f"No line of {' or '.join(hosts.files)} is for this server."


def _place_to_add(hosts: KnownHosts) -> str:
    return hosts.files[0] if hosts.files else str(_SYSTEM_FILE)


def _kind(key: asyncssh.SSHKey) -> str:
    return key.get_algorithm()


def _port(address: Address) -> int | None:
    return None if address.port == DEFAULT_PORT else address.port


def _usual_files() -> list[str]:
    files = [_SYSTEM_FILE]
    with suppress(RuntimeError):  # in some containers a user has no home directory
        files.insert(0, Path.home() / ".ssh" / "known_hosts")
    return [str(file) for file in files if _is_readable(file)]


def _is_readable(file: Path) -> bool:
    try:
        with file.open("rb"):
            return True
    except OSError:
        return False
