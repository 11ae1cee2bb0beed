"""Configuration that lay outside the data directory, as Debian keeps it.

The restored directory must start with a plain ``pg_ctl``, on a machine where ``/etc/postgresql``
may not exist or belongs to the living original. So the originals are kept, and from them one
``postgresql.conf`` is made in the data directory: includes are put in place of their directives,
and what ties the file to another place or machine is commented out, each with its reason.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pgkeep.postgres.conf import parse_conf, parse_includes
from pgkeep.restore.extras import Extras

KEPT_DIRECTORY = "pgkeep.config"
_MAX_DEPTH = 10

_ELSEWHERE = {
    "data_directory": "it names the original's directory",
    "config_file": "it names the original's file",
    "hba_file": "pg_hba.conf lies beside this file now",
    "ident_file": "pg_ident.conf lies beside this file now",
    "external_pid_file": "it is the original's",
}
_CERTIFICATES = (
    "ssl_cert_file",
    "ssl_key_file",
    "ssl_ca_file",
    "ssl_crl_file",
    "ssl_dh_params_file",
)


def restore_outside_files(
    extras: Extras,
    files: Mapping[str, bytes],
    server: Mapping[str, Any],
    *,
    exists: Callable[[str], bool] = lambda path: Path(path).exists(),
) -> list[str]:
    """Make the configuration files that the directory lacks; returns notes.

    ``files`` maps absolute paths to content, ``server`` says which of them is which
    (``config_file``, ``hba_file``, ``ident_file``).
    """
    notes = []
    texts = {path: content.decode("utf-8", "surrogateescape") for path, content in files.items()}
    main = server.get("config_file")
    if main in texts and extras.read("postgresql.conf") is None:
        text, changed = flatten(main, texts, exists=exists)
        extras.write_text("postgresql.conf", text)
        notes.append(f"postgresql.conf was made from {main}")
        notes += [f"commented out in postgresql.conf: {line}" for line in changed]
    for setting, name in (("hba_file", "pg_hba.conf"), ("ident_file", "pg_ident.conf")):
        path = server.get(setting)
        if path in texts and extras.read(name) is None:
            extras.write_text(name, texts[path])
            notes.append(f"{name} was made from {path}")
    return notes


def flatten(
    main: str, texts: Mapping[str, str], *, exists: Callable[[str], bool]
) -> tuple[str, list[str]]:
    """One text of ``main`` and all that it includes, and the settings that were commented out."""
    changed: list[str] = []
    lines: list[str] = []
    _expand(main, texts, lines, depth=0)
    settings = dict(parse_conf("\n".join(lines)))
    without_ssl = settings.get("ssl", "off").lower() in ("on", "true", "yes", "1") and any(
        not exists(settings[name])
        for name in _CERTIFICATES
        if settings.get(name, "").startswith("/")
    )
    kept = []
    for line in lines:
        why = _reason(line, settings, without_ssl=without_ssl, exists=exists)
        if why is not None:
            changed.append(f"{line.split('#')[0].strip()} ({why})")
            line = f"#{line}  # by pgkeep: {why}"
        kept.append(line)
    return "\n".join(kept) + "\n", changed


def _expand(path: str, texts: Mapping[str, str], lines: list[str], *, depth: int) -> None:
    for line in texts[path].rstrip("\n").split("\n"):
        includes = parse_includes(line)
        if not includes:
            lines.append(line)
            continue
        lines.append(f"#{line}")
        for found in _included(path, includes[0].kind, includes[0].path, texts):
            if depth < _MAX_DEPTH:
                lines.append(f"# pgkeep: from {found}")
                _expand(found, texts, lines, depth=depth + 1)
                lines.append(f"# pgkeep: end of {found}")


def _included(path: str, kind: str, target: str, texts: Mapping[str, str]) -> list[str]:
    whole = _normal(str(PurePosixPath(path).parent / target))
    if kind != "include_dir":
        return [name for name in texts if _normal(name) == whole]
    return sorted(name for name in texts if _normal(str(PurePosixPath(name).parent)) == whole)


def _normal(path: str) -> str:
    return posixpath.normpath(path)


def _reason(
    line: str,
    settings: Mapping[str, str],
    *,
    without_ssl: bool,
    exists: Callable[[str], bool],
) -> str | None:
    """Why a line must not stay; None if it may."""
    parsed = parse_conf(line)
    if not parsed:
        return None
    name, value = parsed[0]
    if name in _ELSEWHERE:
        return _ELSEWHERE[name]
    if without_ssl and (name == "ssl" or name in _CERTIFICATES):
        return "its certificate or key is not on this machine"
    if name == "unix_socket_directories":
        places = [place.strip().strip('"') for place in value.split(",")]
        if not all(exists(place) for place in places if place.startswith("/")):
            return "there is no such directory on this machine"
    return None
