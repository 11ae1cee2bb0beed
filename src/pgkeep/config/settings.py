"""The effective settings, as a value that nobody can change and that prints no secret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn

from pgkeep.config.keeping import KeepPolicy
from pgkeep.config.names import known
from pgkeep.config.table import BY_NAME, Setting
from pgkeep.config.values import is_key_text, parse, read_text

if TYPE_CHECKING:
    from pgkeep.config.dumps import DatabaseSettings
    from pgkeep.config.prices import Prices


class FileContent(NamedTuple):
    """A secret that lies in a file and is read when it is needed."""

    path: str

    def read(self, setting: Setting) -> Any:
        text = read_text(self.path, f"{setting.variable}_FILE")
        return parse(setting, text, f"the file {self.path}")


class Settings:
    """The effective settings; immutable. One attribute for each row of ``SETTINGS``.

    ``server`` are libpq parameters of the TOML file's ``[server]`` table. ``origins`` says where
    each setting came from: ``default``, ``environment PGKEEP_X``, ``file PATH``, ``option --x``.
    ``mirrors`` are the settings of each mirror by its name, in the order in which they are asked,
    ``databases`` what is said of how single databases are dumped.
    ``warnings`` are sentences that a person should see.
    """

    repo: str | None
    copies: int | Literal["all"]
    cluster: str
    identity: str | None
    passphrase: str | None
    host_key: str | None
    pgdata: str | None
    primary: str | None
    state: str | None
    jobs: int
    level: int
    rate_limit: int | None
    nice: bool
    read_all_every: int
    archive_timeout: int
    force_version: str | None
    keep: KeepPolicy
    keep_grace: int
    object_lock_days: int | None
    expire_after_backup: bool
    prices: Prices | None

    dump_keep: KeepPolicy
    expire_after_dump: bool
    dump_include: tuple[str, ...]
    dump_exclude: tuple[str, ...]
    dump_templates: bool
    dump_parts: frozenset[str] | None
    dump_format: str
    dump_compression: str | None
    dump_jobs: int
    dump_at_once: int
    dump_options: tuple[str, ...]
    pg_bin: str | None
    scratch: str | None

    endpoint: str | None
    region: str | None
    addressing: str | None
    access_key_id: str | None
    secret_access_key: str | None
    session_token: str | None
    profile: str | None
    aws_credentials_file: str | None
    aws_config_file: str | None
    storage_class: str | None
    server_side_encryption: str | None
    kms_key: str | None
    ca_file: str | None
    credentials_file: str | None
    account: str | None
    account_key: str | None
    sas_token: str | None
    sftp_key_file: str | None
    sftp_known_hosts: str | None
    sftp_password: str | None
    as_of: str | None

    server: Mapping[str, str]
    origins: Mapping[str, str]
    config_file: str | None
    warnings: tuple[str, ...]
    mirrors: Mapping[str, Settings]
    databases: Mapping[str, DatabaseSettings]

    __slots__ = ("_values", "config_file", "databases", "mirrors", "origins", "server", "warnings")

    def __init__(
        self,
        values: Mapping[str, Any],
        origins: Mapping[str, str],
        *,
        server: Mapping[str, str] | None = None,
        config_file: str | None = None,
        warnings: tuple[str, ...] = (),
        mirrors: Mapping[str, Settings] | None = None,
        databases: Mapping[str, DatabaseSettings] | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "_values", dict(values))
        put(self, "origins", dict(origins))
        put(self, "server", dict(server or {}))
        put(self, "config_file", config_file)
        put(self, "warnings", warnings)
        put(self, "mirrors", dict(mirrors or {}))
        put(self, "databases", dict(databases or {}))

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            setting = BY_NAME.get(name)
            if setting is None:
                raise AttributeError(name)
            value = self._values.get(name, setting.default)
            if isinstance(value, FileContent):
                return value.read(setting)
            return value() if callable(value) else value

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"settings are immutable; {name} cannot be set")

    def __repr__(self) -> str:
        shown = (f"{name}={self.shown(name)}" for name in self._values)  # type: ignore[attr-defined]
        return f"Settings({', '.join(shown)})"

    def shown(self, name: str) -> str:
        """The value as text that anybody may see; secrets are only said to be there."""
        setting = BY_NAME[name]
        value = self._values.get(name, setting.default)  # type: ignore[attr-defined]
        if isinstance(value, FileContent):
            return f"(content of {value.path})"
        value = value() if callable(value) else value
        if value is None:
            return "-"
        if setting.secret and not (setting.kind == "key" and not is_key_text(value)):
            return "(hidden)"
        if isinstance(value, bool):
            return "on" if value else "off"
        if isinstance(value, tuple | frozenset) and not hasattr(value, "_fields"):
            return ", ".join(sorted(value) if isinstance(value, frozenset) else value) or "-"
        return str(value)

    def file_of(self, name: str) -> str | None:
        """The file in which a secret lies, by absolute path; None when it is given as text."""
        value = self._values.get(name)  # type: ignore[attr-defined]
        if isinstance(value, FileContent):
            return value.path
        is_path = BY_NAME[name].kind == "key" and isinstance(value, str) and not is_key_text(value)
        return value if is_path else None

    def with_changes(self, **changes: object) -> Settings:
        """A copy with some values replaced; their origin is then ``program``."""
        for name in changes:
            known(name, "setting")
        return Settings(
            {**self._values, **changes},  # type: ignore[attr-defined]
            {**self.origins, **dict.fromkeys(changes, "program")},
            server=self.server,
            config_file=self.config_file,
            warnings=self.warnings,
            mirrors=self.mirrors,
            databases=self.databases,
        )

    def with_mirrors(self, mirrors: Mapping[str, Settings]) -> Settings:
        """A copy with other mirrors."""
        return Settings(
            self._values,  # type: ignore[attr-defined]
            self.origins,
            server=self.server,
            config_file=self.config_file,
            warnings=self.warnings,
            mirrors=mirrors,
            databases=self.databases,
        )
