"""The database that is measured: pgbench's tables and jsonb documents, with page checksums.

pgbench rows compress better than what most people keep (their filler is blank), so three fifths
of the database are jsonb documents of words, names, numbers and times. Every value is a hash
of the row number, so the same size gives the same rows, whatever the plan.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from bench.peers import Peers
from bench.server import LOADING, Server, create_cluster, run_tool, running

GIB = 1 << 30
PGBENCH_SHARE = 0.4
PGBENCH_BYTES_PER_SCALE = 15_750_000
JSONB_BYTES_PER_ROW = 595
DATABASE = "shop"
SEGMENTS = 60
RECIPE = 3

WORDS = """
the of and to in a is that for it as was with be by on not he his but at are this have from
or had an they which one you were all her she there would their we him been has when who
will no more if out so up said what its about than into them can only other time new some
could these two may first then do any like my now over such our man me even most made after
also did many off before must well back through years much where your way down should
because long each just state those people too mister how little good world make very year
still see work day order parcel invoice payment late arrived broken replaced refund blue
green cotton steel wooden kitchen garden window delivery courier driver address neighbour
evening morning holiday urgent sample discount returned warehouse pallet customer asked
called again twice letter signed missing screw handle lamp chair table shelf carpet mirror
"""

DOCUMENTS = """
CREATE FUNCTION pick(words text[], row_number bigint, slot int) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
  words[1 + floor(array_length(words, 1) *
    pow((hashint8extended(row_number, slot) & 1048575) / 1048576.0::float8, 1.5))::int];
BEGIN;
CREATE TABLE documents (id bigint PRIMARY KEY, doc jsonb NOT NULL);
INSERT INTO documents
SELECT i, jsonb_build_object(
  'customer', pick(w, i, 1) || '.' || pick(w, i, 2) || (h & 4095) || '@example.org',
  'ordered', to_timestamp(1700000000 + i * 7 + (h & 1023)),
  'status', (ARRAY['open', 'paid', 'sent', 'closed'])[1 + (h >> 12 & 3)],
  'total', round((h >> 14 & 262143) / 100.0, 2),
  'reference', md5(i::text)::uuid,
  'signature', encode(sha256(i::text::bytea), 'base64'),
  'items', jsonb_build_array(
     jsonb_build_object('sku', h >> 20 & 65535, 'count', 1 + (h >> 36 & 7)),
     jsonb_build_object('sku', h >> 40 & 65535, 'count', 1 + (h >> 56 & 7))),
  'note', (SELECT string_agg(pick(w, i, 10 + n), ' ')
           FROM generate_series(1, 8 + (h >> 5 & 15)::int) n))
FROM (SELECT i, hashint8extended(i, 0) & 9223372036854775807 AS h
      FROM generate_series({first}, {last}) i) rows,
     (SELECT array_agg(word || ending) AS w
      FROM unnest(string_to_array('{words}', ' ')) word,
           unnest(string_to_array(',s,ed,ing,er,ly,ness,able', ',')) ending) vocabulary;
COMMIT;
"""


def load(peers: Peers, work: Path, *, size_bytes: int) -> Path:
    """The data directory with a database of about this size, stopped cleanly; made if absent."""
    pgdata = work / "pgdata"
    recipe = json.dumps({"size_bytes": size_bytes, "recipe": RECIPE})
    mark = work / "pgdata.recipe"
    if mark.exists() and mark.read_text() == recipe:
        return pgdata
    mark.unlink(missing_ok=True)
    shutil.rmtree(pgdata, ignore_errors=True)
    create_cluster(peers, pgdata)
    with running(peers, pgdata, work, LOADING) as server:
        fill(server, size_bytes)
    keep_segments(peers, pgdata, work)
    run_tool(["sync"], {})
    mark.write_text(recipe)
    return pgdata


def fill(server: Server, size_bytes: int) -> None:
    """Create and fill the database."""
    scale = max(1, round(size_bytes * PGBENCH_SHARE / PGBENCH_BYTES_PER_SCALE))
    rows = round(size_bytes * (1 - PGBENCH_SHARE) / JSONB_BYTES_PER_ROW)
    server.sql(f"CREATE DATABASE {DATABASE}")
    env = {**server.env, "PGDATABASE": DATABASE}
    psql = [server.peers.program("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1"]
    run_tool([server.peers.program("pgbench"), "-i", "-q", "-s", str(scale)], env)
    text = DOCUMENTS.format(first=1, last=rows, words=" ".join(WORDS.split()))
    run_tool(psql, env, stdin=text)
    run_tool(psql, env, stdin="VACUUM (FREEZE, ANALYZE); CHECKPOINT;")


def keep_segments(peers: Peers, pgdata: Path, work: Path) -> None:
    """Copy complete WAL segments of a pgbench load to ``work/wal/pg_wal``, to be archived later.

    They are written by the same server, so every program takes them for what they are.
    """
    target = work / "wal" / "pg_wal"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    status = pgdata / "pg_wal" / "archive_status"
    # An archive command that fails leaves the segments where they are, marked as ready.
    settings = {"archive_command": "false", "synchronous_commit": "off", "fsync": "off"}
    with running(peers, pgdata, work, settings) as server:
        env = {**server.env, "PGDATABASE": DATABASE}
        pgbench = [server.peers.program("pgbench"), "-n", "-c", "2", "-T", "2"]
        while len(list(status.glob("*.ready"))) <= SEGMENTS:
            # After a checkpoint pages are logged whole, as most of WAL is in practice.
            server.sql("CHECKPOINT")
            run_tool(pgbench, env)
        ready = sorted(path.stem for path in status.glob("*.ready"))
        for name in ready[:SEGMENTS]:
            shutil.copyfile(pgdata / "pg_wal" / name, target / name)
    with running(peers, pgdata, work, {"archive_command": "true"}) as server:
        server.wait_until_archived()
        server.sql("CHECKPOINT")
