"""How text becomes the value of a setting, and what is refused."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from pgkeep.config.table import Setting
from pgkeep.errors import ConfigError

_ON = {"on": True, "true": True, "yes": True, "1": True}
_OFF = {"off": False, "false": False, "no": False, "0": False}
_SECONDS = {"": 1, "s": 1, "min": 60, "h": 3600, "d": 86400}
_SECRET_MARKS = ("AGE-SECRET-KEY-", "PRIVATE KEY-----")


def is_key_text(text: str) -> bool:
    """Whether an identity was given as its text, not as the path of a file."""
    return any(mark in text.upper() for mark in _SECRET_MARKS)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("it must be text")
    return value.strip()


def _count(value: object) -> int:
    text = "" if isinstance(value, bool) else str(value).strip()
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise ValueError("it must be a number from 1 up")
    return number


def _level(value: object) -> int:
    number = _count(value)
    if number > 19:
        raise ValueError("it must be between 1 and 19")
    return number


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    found = {**_ON, **_OFF}.get(str(value).strip().lower())
    if found is None:
        raise ValueError("it must be on or off")
    return found


def _size(value: object) -> int:
    from pgkeep.units import parse_size

    size = value if isinstance(value, int) and not isinstance(value, bool) else None
    size = parse_size(str(value)) if size is None else size
    if size < 1:
        raise ValueError("it must be above zero")
    return size


def _seconds(value: object) -> int:
    text = str(value).strip()
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = text[len(digits) :].strip()
    if not digits.isdigit() or unit not in _SECONDS:
        raise ValueError("it must be a time such as 60, 90s, 5min or 2h")
    return int(digits) * _SECONDS[unit]


def _conninfo(value: object) -> str:
    # Not parsed by libpq here, which wal-push would have to load.
    text = _text(value)
    if re.search(r"\bpassword\s*=|://[^/@]*:[^/@]*@", text):
        raise ValueError(
            "a password does not belong here; let it name a passfile=, or a service= of the user"
        )
    return text


def _endpoint(value: object) -> str:
    text = _text(value).rstrip("/")
    scheme, _, host = text.partition("://")
    if scheme not in ("http", "https") or not host or "@" in host or "?" in host:
        raise ValueError("it must be http:// or https:// and a host, perhaps with a port")
    return text


def _addressing(value: object) -> str:
    text = _text(value).lower()
    if text not in ("path", "virtual"):
        raise ValueError("it must be path or virtual")
    return text


def _encryption(value: object) -> str:
    text = _text(value)
    if text not in ("AES256", "aws:kms", "aws:kms:dsse"):
        raise ValueError("it must be AES256, aws:kms or aws:kms:dsse")
    return text


def _moment(value: object) -> str:
    from datetime import datetime

    text = _text(value)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise ValueError("it must be a date, a time and a zone")
    return text


def _copies(value: object) -> int | str:
    if isinstance(value, str) and value.strip().lower() == "all":
        return "all"
    try:
        return _count(value)
    except ValueError:
        raise ValueError("it must be all, or a number from 1 up") from None


def _policy(value: object) -> object:
    from pgkeep.config.keeping import parse_policy

    return parse_policy(_text(value))


def _prices(value: object) -> object:
    from pgkeep.config.prices import parse_prices

    return parse_prices(_text(value))


def _names(value: object) -> object:
    from pgkeep.config.dumps import parse_names

    return parse_names(value)


def _parts(value: object) -> object:
    from pgkeep.config.dumps import parse_parts

    return parse_parts(value)


def _dump_format(value: object) -> object:
    from pgkeep.config.dumps import parse_format

    return parse_format(value)


def _compression(value: object) -> object:
    from pgkeep.config.dumps import parse_compression

    return parse_compression(value)


def _words(value: object) -> object:
    from pgkeep.config.dumps import parse_options

    return parse_options(value)


PARSERS: dict[str, Callable[[object], Any]] = {
    "text": _text,
    "key": _text,
    "path": _text,
    "count": _count,
    "level": _level,
    "switch": _switch,
    "size": _size,
    "seconds": _seconds,
    "endpoint": _endpoint,
    "conninfo": _conninfo,
    "addressing": _addressing,
    "encryption": _encryption,
    "moment": _moment,
    "copies": _copies,
    "policy": _policy,
    "prices": _prices,
    "names": _names,
    "parts": _parts,
    "dump_format": _dump_format,
    "compression": _compression,
    "words": _words,
}


def parse(setting: Setting, value: object, where: str, *, relative: bool = True) -> Any:
    try:
        parsed = PARSERS[setting.kind](value)
    except ValueError as error:
        may_hold_secret = setting.secret or setting.kind == "conninfo"
        shown = "" if may_hold_secret else f" ({value!r})"
        example = f" for example {setting.example}" if setting.example else ""
        raise ConfigError(
            f"{where} cannot be used{shown}: {error}.",
            remedy=f"{setting.help} Write{example}." if example else setting.help,
            setting=setting.name,
        ) from error
    if setting.kind == "path" or (setting.kind == "key" and not is_key_text(parsed)):
        return absolute(parsed, where, relative=relative)
    return parsed


def absolute(path: str, where: str, *, relative: bool = True) -> str:
    """Nobody else's working directory or home may change what a path means."""
    if path.startswith("~") or (not relative and not path.startswith("/")):
        raise ConfigError(
            f"{where} is not an absolute path: {path}",
            remedy="Write the whole path, beginning with a slash.",
        )
    return os.path.abspath(path)  # noqa: PTH100 - importing pathlib costs wal-push time


def read_text(path: str, where: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The file that {where} names cannot be read.",
            why=f"{path}: {getattr(error, 'strerror', None) or 'it is not text'}.",
            remedy="Check the path, and who may read it.",
        ) from error
