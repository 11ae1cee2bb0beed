"""asyncssh, or a clear word that it is not installed: it comes with an extra of ours."""

from pgkeep.errors import ConfigError

try:
    import asyncssh
except ImportError as error:
    raise ConfigError(
        "A repository on sftp:// needs the package asyncssh, which is not installed.",
        why=f"Python says: {error}.",
        remedy="Install it beside pgkeep: pip install 'pgkeep[sftp]'",
    ) from error

__all__ = ["asyncssh"]
