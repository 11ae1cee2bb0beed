"""Dumps: ``pgkeep dump create`` against ``pg_dump`` of the same format to nowhere.

``python -m bench.dump --work DIR`` makes a database of 5 GiB (or ``--gib``) and dumps it in both
ways, sealed, into a local repository. Prints JSON: seconds, the share by which pgkeep takes longer,
memory of pgkeep itself and with its children, and what was left on disk beside the repository. Not
as root, since PostgreSQL refuses that.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bench.database import DATABASE, GIB, fill
from bench.measure import Usage, run_measured
from bench.peers import Peers
from bench.server import LOADING, Server, create_cluster, run_tool, running
from pgkeep.seal import age

MIB = 1 << 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.dump", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="an empty directory, on a disk")
    parser.add_argument("--gib", type=float, default=5.0, help="size of the database")
    parser.add_argument("--bin", type=Path, help="PostgreSQL's programs (default: embedded)")
    parser.add_argument("--compression", default="gzip:1,none", help="one or several")
    parser.add_argument("--rounds", type=int, default=2, help="the best of so many")
    parser.add_argument("--load-only", action="store_true", help="make the database and stop")
    args = parser.parse_args()
    work: Path = args.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    peers = Peers(args.bin or _embedded(), Path("/nonexistent"), "given")
    pgdata = work / "pgdata"
    if not (work / "loaded").exists():
        create_cluster(peers, pgdata)
        with running(peers, pgdata, work, LOADING) as server:
            fill(server, int(args.gib * GIB))
        (work / "loaded").touch()
    if args.load_only:
        return 0
    with running(peers, pgdata, work, {"archive_mode": "off"}) as server:
        compressions = args.compression.split(",")
        found = [_measure(server, work, one, args.rounds) for one in compressions]
    print(json.dumps(found, indent=2))
    return 0


def _measure(server: Server, work: Path, compression: str, rounds: int) -> dict[str, Any]:
    repository, scratch = work / f"repository-{compression.replace(':', '-')}", work / "tmp"
    scratch.mkdir(exist_ok=True)
    env = {
        **server.env,
        "PGKEEP_REPO": f"file://{repository}",
        "PGKEEP_STATE": str(work / f"state-{compression.replace(':', '-')}"),
        "PGKEEP_PG_BIN": str(server.peers.postgres_bin),
        "TMPDIR": str(scratch),
    }
    pgkeep = str(Path(sys.executable).parent / "pgkeep")
    run_tool([pgkeep, "init", "--recipient", age.generate_identity()[1]], env)
    option = f"--compress={compression}"
    alone = [
        server.peers.program("pg_dump"),
        "-Fc",
        option,
        "--no-sync",
        "-f",
        "/dev/null",
        DATABASE,
    ]
    ours = [pgkeep, "dump", "create", "--database", DATABASE, "--parts", "none", "--no-expire"]
    ours += ["--compression", compression, "--progress", "none"]
    plains: list[Usage] = []
    dumps: list[Usage] = []
    for _ in range(rounds):
        run_tool(["sync"], {})
        plains.append(run_measured(alone, env, work=work))
        dumps.append(run_measured(ours, env, work=work))
    plain = min(plains, key=lambda one: one.wall_seconds)
    dumped = min(dumps, key=lambda one: one.wall_seconds)
    stored = sum(path.stat().st_size for path in repository.rglob("*") if path.is_file())
    return {
        "database_bytes": int(server.sql(f"SELECT pg_database_size('{DATABASE}')")),
        "compression": compression,
        "stored_bytes": stored // rounds,
        "all_seconds": [
            [round(one.wall_seconds, 2) for one in usages] for usages in (plains, dumps)
        ],
        "pg_dump_seconds": round(plain.wall_seconds, 2),
        "pgkeep_seconds": round(dumped.wall_seconds, 2),
        "ratio": round(dumped.wall_seconds / plain.wall_seconds, 3),
        **_memory(plain, dumped),
        "left_in_scratch": len(list(scratch.iterdir())),
    }


def _memory(plain: Usage, dumped: Usage) -> dict[str, float]:
    return {
        "pg_dump_mib": round(plain.peak_process_bytes / MIB, 1),
        "pgkeep_mib": round(dumped.peak_process_bytes / MIB, 1),
        "with_children_mib": round(dumped.peak_tree_bytes / MIB, 1),
    }


def _embedded() -> Path:
    from pgkeep.demo.embedded import embedded_bin_dir

    return embedded_bin_dir()


if __name__ == "__main__":
    sys.exit(main())
