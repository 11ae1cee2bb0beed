"""What ``list --cost`` shows: quantities, and, with the user's prices, what they come to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pgkeep.cli.context import Context
from pgkeep.cli.overview import ClusterView
from pgkeep.config import Settings
from pgkeep.config.keeping import KeepPolicy
from pgkeep.config.prices import Prices
from pgkeep.keep.cost import (
    Ahead,
    Kept,
    Requests,
    Usage,
    look_ahead,
    measure,
    out_price,
    requests_a_month,
    requests_price,
    storage_price,
)
from pgkeep.units import format_duration, format_size

_DAY = timedelta(days=1)
_FEW = _DAY
"""A pace that was taken from less is a guess, and said to be one."""


@dataclass(frozen=True)
class Costs:
    """``ahead`` is empty before there is a second backup, ``prices`` None when none are given."""

    usage: Usage
    requests: Requests
    ahead: list[Ahead]
    keep: KeepPolicy
    prices: Prices | None
    backups: int
    repositories: int


def costs_of(view: ClusterView, settings: Settings, *, now: datetime) -> Costs:
    """Count what the cluster has stored. Raises what listing raises."""
    kept = [
        Kept(
            backup.ended,
            backup.head.stored_bytes,
            None if backup.head.parent is None else backup.head.added_bytes,
            view.is_good(backup),
            backup.id in view.held,
        )
        for backup in view.backups
    ]
    objects = view.repository.store.list(view.layout.root)  # not held: there may be a million
    usage = measure(objects, view.layout, kept, since=_whole_since(view, now), now=now)
    grace = timedelta(seconds=settings.keep_grace)
    return Costs(
        usage,
        requests_a_month(usage, backups=len(kept)),
        look_ahead(usage, kept, settings.keep, grace=grace, now=now),
        settings.keep,
        settings.prices,
        len(kept),
        1 + len(settings.mirrors),
    )


def _whole_since(view: ClusterView, now: datetime) -> datetime:
    """From when on no WAL was deleted: the beginning of the window that reaches furthest."""
    if view.windows:
        return max(view.windows, key=lambda window: window.to_moment).from_moment
    objects = view.repository.store.list(view.layout.wal)
    return min((one.modified for one in objects), default=now)


def document_of(costs: Costs) -> dict[str, Any]:
    """For ``--json``. Amounts of money are there when prices are."""
    usage, prices = costs.usage, costs.prices
    found: dict[str, Any] = {
        "measured_seconds": round(usage.measured.total_seconds()),
        "stored_bytes": usage.stored_bytes,
        "pack_bytes": usage.pack_bytes,
        "wal_bytes": usage.wal_bytes,
        "other_bytes": usage.other_bytes,
        "wal_bytes_a_day": round(usage.wal_bytes_a_day),
        "wal_files_a_day": round(usage.wal_files_a_day, 1),
        "backups_a_day": round(usage.backups_a_day, 3),
        "added_bytes_each": None if usage.added_bytes is None else round(usage.added_bytes),
        "restore_bytes": usage.restore_bytes,
        "writes_a_month": round(costs.requests.writes),
        "reads_a_month": round(costs.requests.reads),
        "repositories": costs.repositories,
        "keep": str(costs.keep),
        "months": [
            {
                "months": one.months,
                "backups": one.backups,
                "stored_bytes": round(one.stored_bytes),
                **_money(one.stored_bytes, costs.requests, prices),
            }
            for one in costs.ahead
        ],
    }
    if prices is not None:
        found["prices"] = prices._asdict()
        found["now"] = _money(usage.stored_bytes, costs.requests, prices)
        found["restore"] = round(out_price(usage.restore_bytes, prices), 4)
    return found


def _money(stored_bytes: float, requests: Requests, prices: Prices | None) -> dict[str, float]:
    if prices is None:
        return {}
    storage, asked = storage_price(stored_bytes, prices), requests_price(requests, prices)
    return {
        "storage": round(storage, 4),
        "requests": round(asked, 4),
        "a_month": round(storage + asked, 4),
    }


def render(context: Context, costs: Costs) -> None:
    """The quantities, then a table of what is stored now and later."""
    say, usage = context.output.say, costs.usage
    seconds = usage.measured.total_seconds()
    span = f"{usage.measured.days} days" if usage.measured >= 2 * _DAY else format_duration(seconds)
    guess = "; so short a time makes it a guess" if usage.measured < _FEW else ""
    say(f"What it takes, by the last {span}{guess}")
    for title, text in _quantities(costs):
        say(f"  {title:<11}{text}")
    say()
    say(f'With keep = "{costs.keep}", and a database that stays as large as it is')
    context.output.table(_titles(costs.prices), _rows(costs))
    if not costs.ahead:
        say("From the second backup on, the months ahead are shown.")
    say()
    if costs.prices is None:
        say("For amounts of money give your provider's prices, for a GiB-month, 1000 writes, 1000")
        say("reads and a GiB that leaves: --prices '0.023 storage, 0.005 writes, …, 0.09 out, USD'")
    else:
        say(f"Prices: {costs.prices}")
    if costs.repositories > 1:
        say(f"Each of the {costs.repositories} repositories takes about this.")


def _quantities(costs: Costs) -> list[tuple[str, str]]:
    usage, requests = costs.usage, costs.requests
    wal = f"{format_size(usage.wal_bytes_a_day)} a day, in {usage.wal_files_a_day:,.0f} files"
    backups = "one so far" if usage.restore_bytes else "none so far"
    if usage.interval is not None:
        backups = f"one every {_interval(usage.interval)}"
        if usage.added_bytes is not None:
            backups += f", which adds {format_size(usage.added_bytes)}"
    stored = (
        f"{format_size(usage.stored_bytes)} now: pages {format_size(usage.pack_bytes)}, "
        f"WAL {format_size(usage.wal_bytes)}, the rest {format_size(usage.other_bytes)}"
    )
    asked = f"{requests.writes:,.0f} writes and listings a month, {requests.reads:,.0f} reads"
    back = f"reads {format_size(usage.restore_bytes)}, and the WAL since that backup"
    return [
        ("WAL", wal),
        ("backups", backups),
        ("storage", stored),
        ("requests", asked),
        ("a restore", back),
    ]


def _interval(interval: timedelta) -> str:
    """``day``, ``6 hours``: near enough for an estimate."""
    hours = interval.total_seconds() / 3600
    if hours < 1:
        return format_duration(interval.total_seconds())
    if hours < 23:
        return "hour" if round(hours) == 1 else f"{hours:.0f} hours"
    return "day" if round(hours / 24) == 1 else f"{hours / 24:.0f} days"


def _titles(prices: Prices | None) -> tuple[str, ...]:
    named = ("", "backups", "stored")
    if prices is None:
        return named
    of = f" ({prices.currency})" if prices.currency else ""
    return (*named, "storage", "requests", f"a month{of}", "one restore")


def _rows(costs: Costs) -> list[tuple[str, ...]]:
    return [
        _row(costs, "  now", str(costs.backups), costs.usage.stored_bytes),
        *(
            _row(costs, f"  in {_months(one.months)}", str(one.backups), one.stored_bytes)
            for one in costs.ahead
        ),
    ]


def _row(costs: Costs, when: str, backups: str, stored_bytes: float) -> tuple[str, ...]:
    named = (when, backups, format_size(stored_bytes))
    if costs.prices is None:
        return named
    money = _money(stored_bytes, costs.requests, costs.prices)
    out = out_price(costs.usage.restore_bytes, costs.prices)
    return (*named, *(f"{amount:,.2f}" for amount in (*money.values(), out)))


def _months(count: int) -> str:
    return "1 month" if count == 1 else f"{count} months"
