"""Gathering settings from options, the environment and the TOML file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from pgkeep.config import mirrors
from pgkeep.config.names import known, unknown
from pgkeep.config.settings import FileContent, Settings
from pgkeep.config.store_table import PROVIDER_PREFIX, STORE_SETTINGS
from pgkeep.config.table import BY_NAME, DEFAULT_CONFIG_FILE, PREFIX, SETTINGS, Setting
from pgkeep.config.values import absolute, is_key_text, parse, read_text
from pgkeep.errors import ConfigError


def load_settings(
    environ: Mapping[str, str],
    *,
    overrides: Mapping[str, object] | None = None,
    config_file: str | None = None,
) -> Settings:
    """Gather the settings. ``overrides`` come from options, None meaning not given.

    Raises ``ConfigError`` for an unknown name, a malformed value, a setting given twice in the
    environment, or a configuration file that cannot be read.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    server: dict[str, str] = {}
    warnings: list[str] = []
    others: dict[str, mirrors.Found] = {}
    databases: dict[str, Any] = {}
    path = _config_path(environ, config_file)
    if path is not None:
        found, server, tables, databases = _read_file(path, warnings)
        values.update(found)
        origins.update(dict.fromkeys(found, f"file {path}"))
        for mirror, table in tables.items():
            others[mirror] = (table, dict.fromkeys(table, f"file {path}"))
    for name, value, variable, mirror in _from_environment(environ):
        where = others.setdefault(mirror, ({}, {})) if mirror else (values, origins)
        where[0][name] = value
        where[1][name] = f"environment {variable}"
    for name, given in (overrides or {}).items():
        if given is not None:
            option = f"--{name.replace('_', '-')}"
            values[name] = parse(known(name, "option"), given, option)
            origins[name] = f"option {option}"
    for name, value, variable in _from_providers(environ, values):
        values[name] = value
        origins[name] = f"environment {variable}"
    for setting in SETTINGS:
        origins.setdefault(setting.name, "default")
    made = {
        name: mirrors.make_mirror(name, one, lambda given: _from_providers(environ, given))
        for name, one in sorted(others.items())
    }
    mirrors.check_mirrors(values.get("repo"), made, values.get("copies", "all"))
    return Settings(
        values,
        origins,
        server=server,
        config_file=path,
        warnings=tuple(warnings),
        mirrors=made,
        databases=databases,
    )


def settings_of_url(environ: Mapping[str, str], url: str) -> Settings:
    """Settings of a repository that only its URL is known of, and what its provider's variables
    say. Raises ``ConfigError``."""
    return mirrors.mirror_of_url(url, lambda given: _from_providers(environ, given))


def _from_environment(environ: Mapping[str, str]) -> list[tuple[str, Any, str, str]]:
    """(setting, value, variable, mirror); the mirror is empty for the settings themselves."""
    found: list[tuple[str, Any, str, str]] = []
    for variable in sorted(name for name in environ if name.startswith(PREFIX)):
        # An empty variable is what a compose file makes of an unset one.
        text = environ[variable]
        if variable == f"{PREFIX}CONFIG" or _is_service_link(variable) or not text:
            continue
        setting, mirror, plain = _setting_of(variable)
        if plain == variable:
            found.append((setting.name, parse(setting, text, variable), variable, mirror))
        elif environ.get(plain):
            raise ConfigError(
                f"{plain} and {variable} are both set.", remedy="Unset one of the two."
            )
        else:
            value = _from_file(setting, text, variable)
            found.append((setting.name, value, variable, mirror))
    return found


def _setting_of(variable: str) -> tuple[Setting, str, str]:
    """The setting that a variable gives, of which mirror, and the variable without ``_FILE``."""
    mirror, name = "", variable.removeprefix(PREFIX).lower()
    if variable.startswith(mirrors.MIRROR_PREFIX):
        mirror, name = mirrors.split_variable(variable)
    # Some settings are themselves called so: credentials_file.
    plain = variable if name in BY_NAME else variable.removesuffix("_FILE")
    if plain != variable:
        name = name.removesuffix("_file")
    if mirror:
        return mirrors.row_of(name, variable), mirror, plain
    setting = BY_NAME.get(name)
    if setting is None:
        unknown(variable, "environment variable", [s.variable for s in SETTINGS])
    return setting, mirror, plain


def _from_providers(
    environ: Mapping[str, str], given: Mapping[str, Any]
) -> list[tuple[str, Any, str]]:
    """What the variables of the repository's provider say of settings that nothing else gives."""
    scheme = str(given.get("repo") or "").partition(":")[0].lower()
    prefix = PROVIDER_PREFIX.get(scheme)
    if prefix is None:
        return []
    decided = {setting.group for setting in STORE_SETTINGS if setting.name in given} - {""}
    found: list[tuple[str, Any, str]] = []
    for setting in STORE_SETTINGS:
        if setting.name in given or setting.group in decided or scheme not in setting.stores:
            continue
        names = [name for name in setting.also if name.startswith(prefix) and environ.get(name)]
        if names:
            value = parse(setting, environ[names[0]], names[0])
            found.append((setting.name, value, names[0]))
    return found


def _from_file(setting: Setting, path: str, where: str) -> Any:
    if setting.secret:
        return FileContent(absolute(path, where))
    return parse(setting, read_text(path, where), where)


def _is_service_link(variable: str) -> bool:
    """Kubernetes sets these in every pod beside a service whose name begins with pgkeep."""
    ends = ("_PORT", "_SERVICE_HOST", "_SERVICE_PORT")
    return variable.endswith(ends) or "_PORT_" in variable


def _config_path(environ: Mapping[str, str], given: str | None) -> str | None:
    path = given or environ.get(f"{PREFIX}CONFIG") or None
    if path is not None:
        return absolute(path, "--config" if given else f"{PREFIX}CONFIG")
    # An unreadable one must not pass for an absent one.
    return DEFAULT_CONFIG_FILE if os.path.lexists(DEFAULT_CONFIG_FILE) else None


_Tables = dict[str, dict[str, Any]]


def _read_file(
    path: str, warnings: list[str]
) -> tuple[dict[str, Any], dict[str, str], _Tables, dict[str, Any]]:
    """The settings, libpq's parameters, the settings of each mirror, and those of databases."""
    import tomllib

    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            table = tomllib.load(file)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"The configuration file {path} cannot be read.",
            why=f"{error}.",
            remedy="Correct it, or name another with --config or PGKEEP_CONFIG.",
        ) from error
    if mode & 0o002:
        raise ConfigError(
            f"The configuration file {path} is refused.",
            why="Anybody on this host may write to it, and it says where backups go.",
            remedy=f"Run: chmod o-w {path}",
        )
    server = _server_table(table.pop("server", {}), path)
    others = mirrors.tables_of(table.pop("mirrors", {}), path)
    databases = _database_tables(table.pop("databases", {}), path)
    values, secret = _values_of(table, path, _main_row)
    found: _Tables = {}
    for name, one in others.items():
        found[name], more = _values_of(one, f"[mirrors.{name}] of {path}", mirrors.row_of)
        secret = secret or more
    if (secret or "password" in server) and mode & 0o044:
        warnings.append(
            f"{path} holds a secret and can be read by others on this host. Run: chmod 600 {path}"
        )
    return values, server, found, databases


def _database_tables(table: object, path: str) -> dict[str, Any]:
    if not table:
        return {}
    from pgkeep.config.dumps import database_tables

    return dict(database_tables(table, path))


def _main_row(name: str, where: str) -> Setting:
    candidates = [*BY_NAME, "server", "mirrors", "databases"]
    return BY_NAME.get(name) or unknown(name, f"setting in {where}", candidates)


def _values_of(
    table: Mapping[str, object], where: str, row: Callable[[str, str], Setting]
) -> tuple[dict[str, Any], bool]:
    """The values of one table, and whether a secret stands in it."""
    values: dict[str, Any] = {}
    secret = False
    for key, value in table.items():
        plain = key.removesuffix("_file") if key not in BY_NAME else key
        setting = row(plain, where)
        if plain != key and not setting.secret:
            row(key, where)  # which refuses it
        if plain in values:
            raise ConfigError(f"{where} sets both {plain} and {plain}_file.")
        if plain != key:
            values[plain] = _from_file(setting, str(value), f"{key} in {where}")
            continue
        values[plain] = parse(setting, value, f"{key} in {where}", relative=False)
        secret = secret or (setting.secret and (plain != "identity" or is_key_text(values[plain])))
    return values, secret


def _server_table(table: object, path: str) -> dict[str, str]:
    """libpq's parameters; their names are checked by libpq, which knows them."""
    if not isinstance(table, dict) or not all(
        isinstance(value, str | int) for value in table.values()
    ):
        raise ConfigError(
            f"[server] in {path} must be a table of libpq's connection parameters.",
            remedy='Write for example: [server] host = "/run/postgresql"',
        )
    return {str(name): str(value) for name, value in table.items()}
