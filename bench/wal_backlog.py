"""WAL as a server asks for it: a backlog that its archiver works off, and a recovery that reads it.

The WAL is of messages that change no page, so that nothing but reading it takes time in recovery;
half of what they say is random.
"""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

from bench.context import Context
from bench.peers import BenchError
from bench.server import Server, clean_env, wait_for

_MESSAGE = (
    "SELECT pg_logical_emit_message(false, 'bench', "
    "(SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 32768)))"
)
_MESSAGES_A_SEGMENT = 16  # of 1 MiB each
_SEGMENT_BYTES = 16 << 20
_STATUS_LINE = 7  # of postmaster.pid; "standby" while a hot standby recovers


def drain(server: Server, command: str, *, segments: int) -> float:
    """Seconds for each segment of a backlog, from telling the archiver its command to the end."""
    server.archive_with("")
    for _ in range(segments):
        server.sql(";".join([_MESSAGE] * _MESSAGES_A_SEGMENT))
    server.sql("SELECT pg_switch_wal()")
    waiting = len(list((server.pgdata / "pg_wal/archive_status").glob("*.ready")))
    quoted = command.replace("'", "''")
    server.sql(f"ALTER SYSTEM SET archive_command = '{quoted}'")
    began = time.monotonic()
    server.sql("SELECT pg_reload_conf()")
    server.wait_until_archived()
    return (time.monotonic() - began) / waiting


def recover(context: Context, target: Path, *, segments: int) -> float:
    """Seconds for each segment, from the start of a restored server to the end of recovery."""
    socket = context.work / "recovering"
    socket.mkdir(mode=0o700, exist_ok=True)
    options = ["-k", str(socket), "-c", "archive_mode=off", "-c", "listen_addresses="]
    command = [context.peers.program("postgres"), "-D", str(target), *options]
    began = time.monotonic()
    with (context.work / "recovering.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=clean_env({})
        )
    server = Server(context.peers, target, socket, process.pid)
    try:
        wait_for(lambda: _has_recovered(server, process), "the restored server to recover")
        seconds = (time.monotonic() - began) / segments
        _check_reached(context.server, server)
        return seconds
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGQUIT)  # it is thrown away
            process.wait()


def _check_reached(source: Server, recovered: Server) -> None:
    """All that was archived has been replayed. A restore command that fails for whatever reason
    may end recovery early, and would look fast. Raises BenchError."""
    last = source.sql("SELECT left(last_archived_wal, 24) FROM pg_stat_archiver")
    begins = f"(pg_split_walfile_name('{last}')).segment_number * {_SEGMENT_BYTES}"
    # Its last record may end with the page that it is on, so its end is not asked for.
    is_there = f"SELECT pg_last_wal_replay_lsn() >= '0/0'::pg_lsn + {begins}"
    if recovered.sql(is_there) != "t":
        reached = recovered.sql("SELECT pg_last_wal_replay_lsn()")
        raise BenchError(f"Recovery ended at {reached}, before the last archived segment, {last}.")


def _has_recovered(server: Server, process: subprocess.Popen[bytes]) -> bool:
    """As pg_ctl sees it. A client that asks again and again would take its share of few cores."""
    if process.poll() is not None:
        raise BenchError("The restored server ended; its log is recovering.log.")
    try:
        said = (server.pgdata / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(said) > _STATUS_LINE and said[_STATUS_LINE].strip() == "ready"
