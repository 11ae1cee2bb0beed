"""The settings we write make a real server stop exactly at the target, and keep to itself."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgkeep.postgres.backup_session import BackupSession
from pgkeep.postgres.conf import set_settings
from pgkeep.postgres.connection import connect
from pgkeep.postgres.datadir import read_control
from pgkeep.postgres.exclusions import Exclusions, empty_directories
from pgkeep.postgres.history import TimelineHistory, parse_history
from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.recovery import (
    RecoveryTarget,
    copy_settings,
    raised_limits,
    recovery_settings,
    render_target_value,
)
from pgkeep.postgres.segment import HEADER_SIZE, check_segment, parse_segment_header
from pgkeep.postgres.settings import RECOVERY_TARGET_SETTINGS
from pgkeep.postgres.wal_name import history_name
from tests.factory import ServerFactory
from tests.servers import PgServer, server_user

# What somebody's earlier recovery left behind in postgresql.conf.
LEFTOVERS = {
    "recovery_target_name": "long ago",
    "recovery_target_timeline": "7",
    "recovery_target_action": "shutdown",
    "restore_command": "exit 200",
    "primary_conninfo": "host=/nowhere",
}


def test_unused_targets_are_emptied_before_the_used_one() -> None:
    for kind, value in (("xid", 1000), ("name", "x"), ("immediate", None), ("lsn", Lsn(8))):
        target = RecoveryTarget(kind, value)  # type: ignore[arg-type]
        written = recovery_settings(target, 1, restore_command="x")
        targets = [(name, text) for name, text in written if name in RECOVERY_TARGET_SETTINGS]
        assert len(targets) == len(RECOVERY_TARGET_SETTINGS)
        assert [text == "" for _, text in targets] == [True] * 4 + [False]
    latest = dict(recovery_settings(RecoveryTarget("latest"), 3, restore_command="x"))
    assert {latest[name] for name in RECOVERY_TARGET_SETTINGS} == {""}
    assert latest["recovery_target_timeline"] == "3"


@given(st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 30)), st.integers(-14 * 60, 14 * 60))
def test_a_moment_keeps_its_microsecond_whatever_its_zone(moment: datetime, minutes: int) -> None:
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    text = render_target_value(RecoveryTarget("time", aware))
    assert datetime.fromisoformat(text) == aware


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("latest", "x"),
        ("immediate", 1),
        ("time", datetime(2026, 11, 20)),
        ("time", "now"),
        ("lsn", 0),
        ("lsn", "0/1"),
        ("xid", 2),
        ("xid", "9"),
        ("name", ""),
        ("name", "x" * 64),
        ("moon", 1),
    ],
)
def test_a_value_that_does_not_fit_its_kind_is_refused(kind: str, value: object) -> None:
    with pytest.raises(ValueError, match="not a target"):
        RecoveryTarget(kind, value)  # type: ignore[arg-type]


@dataclass
class Story:
    """A server with an archive, a base copy, and five rows, one a transaction, after it."""

    factory: ServerFactory
    primary: PgServer
    copy: Path
    archive: Path
    xids: list[int]
    lsns: list[Lsn]
    times: list[datetime]

    def restore(
        self, name: str, target: RecoveryTarget, *, timeline: int = 1, source: Path | None = None
    ) -> PgServer:
        """A second server, recovering from the copy to the target and then accepting writes."""
        pgdata = self.copy.parent / name
        shutil.copytree(source or self.copy, pgdata, symlinks=True)
        major = self.primary.installation.major
        settings = recovery_settings(
            target, timeline, restore_command=f"cp '{self.archive}/%f' '%p'"
        )
        text = set_settings("", dict([*settings, *copy_settings(major)]))
        (pgdata / "postgresql.auto.conf").write_text(text)
        (pgdata / "recovery.signal").touch()
        own_tree(pgdata)
        server = self.factory.adopt(pgdata)
        server.configure(LEFTOVERS)
        return server.start()

    def rows(self, server: PgServer) -> list[int]:
        server.wait_recovery_end()
        return [int(line) for line in server.psql("SELECT n FROM t ORDER BY n").split()]


@pytest.fixture
def story(server_factory: ServerFactory, server_tmp: Path) -> Story:
    archive = server_user().own(made(server_tmp / "archive"))
    primary = server_factory(
        conf={"archive_mode": "on", "archive_command": f"cp '%p' '{archive}/%f'"}
    )
    primary.psql("CREATE TABLE t (n int)")
    copy = server_tmp / "copy"
    with connect(primary.conninfo + " dbname=postgres") as connection:
        with BackupSession(connection) as session:
            session.start("story", True)
            copy_directory(primary.pgdata, copy, major=primary.installation.major)
            (copy / "backup_label").write_bytes(session.stop().label_file)
        xids, lsns, times = [], [], []
        for n in range(1, 6):
            xid = connection.value(
                "WITH added AS (INSERT INTO public.t VALUES (%s)) "
                "SELECT pg_current_xact_id()::text::int8",
                (n,),
            )
            xids.append(xid)
            lsns.append(Lsn.parse(connection.value("SELECT pg_current_wal_insert_lsn()::text")))
            times.append(connection.value("SELECT clock_timestamp()"))
            BackupSession(connection).create_restore_point(f"after {n}")
    primary.wait_archived()
    return Story(server_factory, primary, copy, archive, xids, lsns, times)


def made(path: Path) -> Path:
    path.mkdir()
    return path


def own_tree(root: Path) -> None:
    server_user().own(root)
    for path in root.rglob("*"):
        if not path.is_symlink():
            server_user().own(path)


def copy_directory(source: Path, target: Path, *, major: int) -> None:
    """A plain base backup of a small directory by our exclusion rules."""
    rules = Exclusions()

    def left_out(folder: str, names: list[str]) -> set[str]:
        relative = str(Path(folder).relative_to(source)).removeprefix(".")
        prefix = f"{relative}/" if relative else ""
        out = {name for name in names if rules.excludes_file(prefix + name)}
        return out | (rules.unlogged(names) if rules.may_hold_unlogged(relative) else set())

    shutil.copytree(source, target, ignore=left_out)
    for name in empty_directories(major):
        (target / name).mkdir(exist_ok=True)
    target.chmod(0o700)


def test_each_kind_of_target_is_reached_despite_leftovers(story: Story) -> None:
    targets = {
        "latest": (RecoveryTarget("latest"), [1, 2, 3, 4, 5]),
        "immediate": (RecoveryTarget("immediate"), []),
        "time": (RecoveryTarget("time", story.times[1]), [1, 2]),
        "lsn": (RecoveryTarget("lsn", story.lsns[2]), [1, 2, 3]),
        "xid": (RecoveryTarget("xid", story.xids[3]), [1, 2, 3, 4]),
        "xid-before": (RecoveryTarget("xid", story.xids[3], inclusive=False), [1, 2, 3]),
        "name": (RecoveryTarget("name", "after 2"), [1, 2]),
    }
    for name, (target, expected) in targets.items():
        server = story.restore(name, target)
        assert story.rows(server) == expected, name
        for setting, value in copy_settings(server.installation.major):
            # The server shows an empty archive_command so while archive_mode is off.
            assert server.psql(f"SHOW {setting}").replace("(disabled)", "") == value
        server.close()


@pytest.mark.parametrize(
    "settings",
    [
        {**LEFTOVERS, "recovery_target_xid": "1000"},
        {"recovery_target_xid": "9", "recovery_target": ""},
    ],
    ids=["leftovers", "emptied-too-late"],
)
def test_otherwise_the_server_would_have_refused(story: Story, settings: dict[str, str]) -> None:
    """Why leftovers must be emptied, and before the target in use."""
    pgdata = story.copy.parent / "refused"
    shutil.copytree(story.copy, pgdata)
    (pgdata / "recovery.signal").touch()
    own_tree(pgdata)
    server = story.factory.adopt(pgdata)
    server.configure(settings)
    server.start(wait=False)
    assert server.wait_exit() != 0
    assert "multiple recovery targets" in server.log_text()


def test_the_history_of_a_promoted_server_is_read_as_it_happened(story: Story) -> None:
    server = story.restore("promoted", RecoveryTarget("lsn", story.lsns[2]))
    story.rows(server)
    data = (server.pgdata / "pg_wal" / history_name(2)).read_bytes()
    history = parse_history(data, 2)
    switch = history.switch_point(1)
    assert switch is not None
    assert story.lsns[1] < switch <= story.lsns[2] + 200
    assert history.contains(1, story.lsns[1])
    assert not history.contains(1, story.lsns[4])
    assert history.contains(2, switch + 1)
    assert TimelineHistory.of_first().contains(1, story.lsns[4])
    # The new timeline's first segment begins with a copy of the old one's pages.
    segment = min((server.pgdata / "pg_wal").glob("00000002" + "?" * 16))
    with open(segment, "rb") as file:
        header = parse_segment_header(file.read(HEADER_SIZE))
    control = read_control(server.pgdata)
    assert header.timeline == 1
    check_segment(
        header,
        segment.name,
        system_identifier=control.system_identifier,
        segment_size=control.wal_segment_size,
    )


def test_going_back_behind_a_switch_leaves_a_parent_that_contributes_nothing(story: Story) -> None:
    """Timeline 3 names 2 as its parent, although it left timeline 1 before 2 began."""
    second = story.restore("second", RecoveryTarget("lsn", story.lsns[3]))
    story.rows(second)
    name = history_name(2)
    shutil.copy(second.pgdata / "pg_wal" / name, story.archive / name)
    for segment in (second.pgdata / "pg_wal").glob("00000002" + "?" * 16):
        shutil.copy(segment, story.archive / segment.name)
    own_tree(story.archive)
    second.stop()
    third = story.restore("third", RecoveryTarget("lsn", story.lsns[1]), timeline=2)
    assert story.rows(third) == [1, 2]
    data = (third.pgdata / "pg_wal" / history_name(3)).read_bytes()
    written = [line.split(b"\t") for line in data.splitlines() if line.strip()]
    assert [int(line[0]) for line in written] == [1, 2]
    assert Lsn.parse(written[1][1].decode()) < Lsn.parse(written[0][1].decode())
    history = parse_history(data, 3)
    assert [stretch.timeline for stretch in history.ancestors] == [1, 3]
    assert history.switch_point(1) == Lsn.parse(written[1][1].decode())


def test_limits_below_the_primarys_are_raised(story: Story) -> None:
    control = read_control(story.copy)
    same = {
        "max_connections": control.max_connections,
        "max_worker_processes": control.max_worker_processes,
        "max_wal_senders": control.max_wal_senders,
        "max_prepared_transactions": control.max_prepared_transactions,
        "max_locks_per_transaction": control.max_locks_per_transaction,
    }
    assert raised_limits(control, same) == []
    lower = {**same, "max_connections": control.max_connections - 1}
    assert raised_limits(control, lower) == [("max_connections", str(control.max_connections))]
    del same["max_wal_senders"]
    assert raised_limits(control, same) == [("max_wal_senders", str(control.max_wal_senders))]
