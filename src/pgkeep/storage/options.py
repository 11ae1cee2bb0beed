"""What an object store has to be told beside its URL.

A directory needs none of it. Which of these a store takes depends on its scheme; what is not
given is left to the provider's own ways (an instance's role, a web identity, a managed identity).
The names are those of the settings.
"""

from __future__ import annotations

from typing import NamedTuple


class StoreOptions(NamedTuple):
    """Settings of one object store; None is "not given". Files are absolute paths.

    Never print one: ``secret_access_key``, ``session_token``, ``account_key``, ``sas_token`` and
    ``sftp_password`` are secrets, and ``repr`` hides them all.
    """

    endpoint: str | None = None
    region: str | None = None
    addressing: str | None = None  # "path" or "virtual"
    profile: str | None = None
    aws_credentials_file: str | None = None
    aws_config_file: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = None
    session_token: str | None = None
    storage_class: str | None = None
    server_side_encryption: str | None = None
    kms_key: str | None = None
    ca_file: str | None = None
    credentials_file: str | None = None
    account: str | None = None
    account_key: str | None = None
    sas_token: str | None = None
    as_of: str | None = None  # a moment, in ISO 8601 with its zone
    sftp_key_file: str | None = None
    sftp_known_hosts: str | None = None
    sftp_password: str | None = None

    def __repr__(self) -> str:
        given = [name for name, value in self._asdict().items() if value is not None]
        return f"StoreOptions(given: {', '.join(given) or 'none'})"
