"""What a user asks for, turned into a target of recovery.

The one trap is time. PostgreSQL reads a time without a zone in the server's ``timezone``, which
may be another one than the user's. So a moment is made definite here: with a zone as it
stands, without one in the zone of the user, and the plan says which. What is not definite (a date
alone, an hour that the end of summer time repeats) is refused with an example.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import NamedTuple

from pgkeep.errors import UsageError
from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.recovery import RecoveryTarget

_EXAMPLE = "Write a date, a time and a zone, for example '2026-11-20 14:03:07+01:00'."
_NAMED_ZONE = re.compile(r"^(?P<rest>.*\d)\s+(?P<zone>[A-Za-z][A-Za-z0-9_+/-]*)$")
_UTC_NAMES = {"UTC", "GMT", "Z", "ZULU"}


class AskedTarget(NamedTuple):
    """A target, and what the plan should say about how it was understood."""

    target: RecoveryTarget
    note: str | None = None


def latest() -> AskedTarget:
    """As far as WAL is stored."""
    return AskedTarget(RecoveryTarget("latest"))


def immediate() -> AskedTarget:
    """As soon as the backup is consistent."""
    return AskedTarget(RecoveryTarget("immediate"))


def at_time(text: str, *, inclusive: bool) -> AskedTarget:
    """A moment, as text. Raises ``UsageError``."""
    moment, note = parse_moment(text)
    return AskedTarget(RecoveryTarget("time", moment, inclusive), note)


def at_lsn(text: str, *, inclusive: bool) -> AskedTarget:
    """A position in the WAL, ``16/B374D848``. Raises ``UsageError``."""
    try:
        return AskedTarget(RecoveryTarget("lsn", Lsn.parse(text.strip()), inclusive))
    except ValueError as error:
        raise UsageError(
            f"{text!r} is not a position in the WAL.",
            remedy="Write it as PostgreSQL prints it, for example 16/B374D848.",
        ) from error


def at_xid(text: str, *, inclusive: bool) -> AskedTarget:
    """The end of a transaction, by its number. Raises ``UsageError``."""
    try:
        return AskedTarget(RecoveryTarget("xid", int(text), inclusive))
    except ValueError as error:
        raise UsageError(
            f"{text!r} is not the number of a transaction.",
            remedy="Write what pg_current_xact_id() printed, for example 7310.",
        ) from error


def at_name(text: str) -> AskedTarget:
    """A restore point. Raises ``UsageError``."""
    try:
        return AskedTarget(RecoveryTarget("name", text))
    except ValueError as error:
        raise UsageError(
            f"{text!r} cannot be the name of a restore point.",
            remedy="Such a name has 1 to 63 bytes, as given to pg_create_restore_point().",
        ) from error


def parse_moment(text: str) -> tuple[datetime, str | None]:
    """An aware datetime, and a sentence if a zone had to be assumed. Raises ``UsageError``."""
    text = text.strip()
    if _is_date(text):
        raise UsageError(f"{text!r} is a date without a time.", remedy=_EXAMPLE)
    moment = _parse(text)
    if moment.tzinfo is not None:
        return moment, None
    local = moment.astimezone()
    if local.replace(tzinfo=None) != moment:
        raise UsageError(
            f"{text!r} does not exist in the zone {local.tzname()}.",
            why="Clocks were put forward over it.",
            remedy=_EXAMPLE,
        )
    if moment.replace(fold=1).astimezone().utcoffset() != local.utcoffset():
        raise UsageError(
            f"{text!r} happened twice in this machine's zone.",
            why="Clocks were put back over it.",
            remedy=_EXAMPLE,
        )
    offset = f"{local:%z}"
    zone = f"{local.tzname()} (UTC{offset[:3]}:{offset[3:]})"
    return local, f"{text} is taken in this machine's zone, {zone}"


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _parse(text: str) -> datetime:
    named = _NAMED_ZONE.match(text)
    try:
        if named is None:
            return datetime.fromisoformat(text)
        moment = datetime.fromisoformat(named["rest"])
        zone = named["zone"]
        if moment.tzinfo is not None:
            raise ValueError("two zones")
        if zone.upper() in _UTC_NAMES:
            return moment.replace(tzinfo=UTC)
        if "/" in zone:
            from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

            try:
                return moment.replace(tzinfo=ZoneInfo(zone))
            except ZoneInfoNotFoundError as error:
                raise ValueError(str(error)) from error
    except ValueError as error:
        raise UsageError(f"{text!r} is not a moment.", remedy=_EXAMPLE) from error
    raise UsageError(
        f"{text!r} names the zone {named['zone']!r}, which may mean several.",
        remedy="Write the zone as an offset, for example +01:00, or in full, Europe/Berlin.",
    )
