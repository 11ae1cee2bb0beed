"""The WAL walker sees what pg_waldump sees: every end of a transaction, and where WAL ends."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from pgkeep.errors import ForeignWal
from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.wal_record import TRANSACTION_ENDS, WalEvent, WalEventKind
from pgkeep.postgres.wal_scan import WalScanner
from tests.factory import ServerFactory
from tests.load import Load, prepare_pgbench
from tests.server_user import run_as_server_user
from tests.servers import PgServer

SEGMENT = 16 << 20
ENDS = {"COMMIT", "ABORT", "COMMIT_PREPARED", "ABORT_PREPARED"}


def segments(server: PgServer) -> list[Path]:
    return sorted(path for path in (server.pgdata / "pg_wal").iterdir() if len(path.name) == 24)


def scan(paths: list[Path], *, segment_size: int = SEGMENT) -> tuple[WalScanner, list[WalEvent]]:
    number = int(paths[0].name[8:16], 16) * ((1 << 32) // segment_size)
    number += int(paths[0].name[16:], 16)
    scanner = WalScanner(Lsn(number * segment_size), segment_size=segment_size)
    events = [event for path in paths for event in scanner.feed(path.read_bytes())]
    return scanner, events


def make_history(server: PgServer) -> None:
    """Ends of all kinds, records over several pages and segments, switches."""
    prepare_pgbench(server)
    with Load(server, ddl=True) as load:
        load.wait_churn_rounds(2)
    server.psql("BEGIN; CREATE TABLE p1(a int); INSERT INTO p1 VALUES (1); PREPARE TRANSACTION 'x'")
    server.psql("COMMIT PREPARED 'x'")
    server.psql("BEGIN; CREATE TABLE p2(a int); DROP TABLE p1; PREPARE TRANSACTION 'x'")
    server.psql("ROLLBACK PREPARED 'x'")
    server.psql("BEGIN; SAVEPOINT a; CREATE TABLE s(a int); ROLLBACK TO a; DROP TABLE p1; COMMIT")
    server.psql("SELECT pg_create_restore_point('before the end')")
    server.psql("SELECT pg_switch_wal()")
    server.psql("SELECT pg_logical_emit_message(true, 'long', repeat('x', 20000000))")


def test_every_end_of_a_transaction_is_seen_as_pg_waldump_sees_it(
    server_factory: ServerFactory,
) -> None:
    server = server_factory(conf={"max_prepared_transactions": 4, "wal_keep_size": "2GB"})
    make_history(server)
    server.stop()
    paths = segments(server)
    scanner, events = scan(paths)
    dump = run_as_server_user(
        [
            server.program("pg_waldump"),
            *("-p", server.pgdata / "pg_wal", paths[0].name, paths[-1].name),
        ],
        check=False,  # it ends with an error where WAL ends
    ).stdout.splitlines()
    lines = [line for line in dump if line.startswith("rmgr")]
    theirs = set(filter(None, map(_end_in, lines)))
    ours = {
        (event.kind.value, event.lsn, event.xid, f"{event.time:%Y-%m-%d %H:%M:%S.%f}")
        for event in events
        if event.kind in TRANSACTION_ENDS
    }
    assert len(theirs) > 100
    assert ours == theirs
    assert {event.kind for event in events} >= TRANSACTION_ENDS
    last = re.search(r"lsn: (\S+),", lines[-1])
    assert last is not None
    assert scanner.last_record == Lsn.parse(last[1])
    assert scanner.ended
    points = [event for event in events if event.kind is WalEventKind.RESTORE_POINT]
    assert [event.name for event in points] == ["before the end"]


def _end_in(line: str) -> tuple[str, Lsn, int, str] | None:
    match = re.match(
        r"rmgr: Transaction +len.* tx: +(\d+), lsn: (\S+), prev \S+ desc: (\S+) (?:(\d+): )?"
        r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+)",
        line,
    )
    if match is None or match[3] not in ENDS:
        return None
    xid = int(match[4] or match[1])
    seconds, _, fraction = match[5].partition(".")
    kind = match[3].lower().replace("_", " ")
    return kind, Lsn.parse(match[2]), xid, f"{seconds}.{fraction:0<6}"


@pytest.mark.majors(18)
def test_a_scan_that_begins_anywhere_sees_the_same_events(server_factory: ServerFactory) -> None:
    server = server_factory(wal_segsize_mb=1, conf={"wal_keep_size": "2GB"})
    prepare_pgbench(server)
    server.stop()
    paths = segments(server)
    _, events = scan(paths, segment_size=1 << 20)
    for begin in range(1, len(paths), 5):
        start = (int(paths[begin].name[16:], 16)) << 20
        _, fewer = scan(paths[begin:], segment_size=1 << 20)
        assert fewer == [event for event in events if event.lsn >= start]


@pytest.mark.majors(18)
def test_damaged_wal_ends_the_scan_and_never_breaks_it(server_factory: ServerFactory) -> None:
    server = server_factory(wal_segsize_mb=1)
    server.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) i")
    server.stop()
    path = segments(server)[0]
    sound = path.read_bytes()
    _, events = scan([path], segment_size=1 << 20)
    number = int(path.name[16:], 16)
    chance = random.Random(7)
    for _ in range(300):
        damaged = bytearray(sound)
        for _ in range(chance.choice((1, 50))):
            damaged[chance.randrange(len(sound))] ^= chance.randrange(1, 256)
        scanner = WalScanner(Lsn(number << 20), segment_size=1 << 20)
        found = scanner.feed(bytes(damaged))
        known = {event.lsn: event for event in events}
        assert all(known.get(event.lsn) == event for event in found)


def test_too_few_bytes_are_refused() -> None:
    with pytest.raises(ForeignWal, match="not a WAL segment"):
        WalScanner(Lsn(1 << 24), segment_size=SEGMENT).feed(b"short")
