"""docs/format.md is enough to write a reader: here is one, written from the page alone.

Nothing of pgkeep reads anything here. pgkeep makes a small repository, once sealed and once not;
the reader of ``page_reader.py`` opens it with an identity, checks everything that the page says,
and must come to the very bytes that went in. Whoever changes the format finds out here that the
page has to change with it.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import struct
from pathlib import Path

import pyrage
import pytest
from blake3 import blake3

from pgkeep.repository.check_records import record_check
from pgkeep.repository.checks import DEEP, QUICK, SCRUB, Check, Finding
from pgkeep.repository.identity import Repository, add_host
from pgkeep.repository.manifest import FileRow, ManifestBuilder, Tablespace
from pgkeep.repository.map import HOLE, Extent, FileMap, FrameAddress, build_block
from pgkeep.repository.pack import PackWriter
from pgkeep.repository.system import register_system
from pgkeep.seal import age
from tests.repository.kit import (
    AT,
    BY,
    HEAD,
    LAYOUT,
    SYSTEM,
    make_repository,
    put_history,
    put_wal,
)
from tests.repository.page_reader import (
    PAGE,
    Envelope,
    Keys,
    Reader,
    record,
    unescaped,
)

ATTEMPT = "c0" * 16
CONTENT = {
    "PG_VERSION": b"18\n",
    "base/5/16384": b"".join(bytes([n]) * PAGE for n in (1, 2, 3))
    + bytes(4 * PAGE)
    + b"\x09" * 100,
    "pg_tblspc/16400/PG_18/1/2": b"\x07" * PAGE,
    "empty": b"",
    "back\\slash": b"odd",
    os.fsdecode(b"not utf8 \xff"): b"odder",
    "/etc/postgresql/pg_hba.conf": b"local all all trust\n",
}
SEGMENT = "000000010000000000000003"
WAL = {
    SEGMENT: os.urandom(9 << 20),
    f"{SEGMENT}.partial": b"p" * 100,
    f"{SEGMENT}.00000028.backup": b"START WAL LOCATION\n",
}
HISTORY = b"1\t0/580000\tno recovery target specified\n"

# -- making what it reads ------------------------------------------------------------------------


def put_files(repository: Repository) -> None:
    """Two packs and a manifest that hold CONTENT, one page of it marked as failed."""
    store, keyring = repository.store, repository.keyring
    key = keyring.page_hash_key()
    builder = ManifestBuilder()
    writers = [
        PackWriter(keyring, ATTEMPT, number, page_size=PAGE, hash_key=key) for number in (1, 2)
    ]
    maps = [file_map(writers[0], path, content, key.key) for path, content in CONTENT.items()]
    frame = writers[1].add_map_block(build_block(maps, PAGE))
    for writer in writers:
        info, view = writer.finish()
        store.put(info.key(LAYOUT), view, if_absent=True)
        builder.add_pack(info)
    pack = builder.pack_id(ATTEMPT, 2)
    builder.add_files(
        FileRow(
            one.path,
            int(one.path.startswith("/")),
            one.size_bytes,
            0o600,
            -1,
            2,
            (1 << 64) - 1,
            pack,
            frame.number,
            frame.offset,
            frame.stored,
            slot,
            len(one.failed),
        )
        for slot, one in enumerate(maps)
    )
    builder.add_directory("base/5", 0o700)
    builder.add_link("pg_tblspc/16400", "/srv/back\\slash")
    builder.add_tablespace(Tablespace(16400, "fast", "/srv/back\\slash"))
    builder.add_fact("hash", {"kind": key.kind, "shown": key.shown.hex()})
    data = builder.build(keyring, HEAD)
    store.put(LAYOUT.manifest(HEAD.backup), data, if_absent=True)
    store.put(LAYOUT.manifest_copy(HEAD.backup), data, if_absent=True)


def file_map(writer: PackWriter, path: str, content: bytes, key: bytes) -> FileMap:
    """Pages that are zeros are left out, all others lie in one frame."""
    one = FileMap(path, len(content), failed=[1] if path == "base/5/16384" else [])
    pages = [content[at : at + PAGE] for at in range(0, len(content), PAGE)]
    plain = b""
    for number, page in enumerate(pages):
        if page == bytes(PAGE):
            one.extents.append(Extent(number, 1, HOLE, 0))
        else:
            one.extents.append(Extent(number, 1, 0, len(plain) // PAGE))
            plain += page
    if plain:
        hashes = b"".join(
            blake3(page, key=key).digest()[:8] for page in pages if page != bytes(PAGE)
        )
        one.frames.append(
            FrameAddress(writer.attempt, writer.number, *writer.add_data(plain, hashes))
        )
    return one


@pytest.fixture(params=[True, False], ids=["sealed", "plain"])
def made(
    request: pytest.FixtureRequest, tmp_path: Path
) -> tuple[Repository, dict[str, bytes], Keys]:
    """A repository, its objects by key, and the reader's keys."""
    repository, identity = make_repository(tmp_path, sealed=request.param)
    store = repository.store
    register_system(store, "main", SYSTEM, postgres_major=18, new_system=False, at=AT, by=BY)
    put_files(repository)
    kinds = {"segment": SEGMENT, "partial": f"{SEGMENT}.partial"}
    kinds["backup"] = f"{SEGMENT}.00000028.backup"
    for kind, name in kinds.items():
        put_wal(repository, name, WAL[name], kind=kind)
    put_history(repository, 2, HISTORY)
    objects = {info.key: store.get(info.key) for info in store.list()}
    return repository, objects, Keys(objects, identity)


Made = tuple[Repository, dict[str, bytes], Keys]


# -- what must hold ------------------------------------------------------------------------------


def test_every_file_of_a_backup_comes_back(made: Made) -> None:
    _, objects, keys = made
    reader = Reader(objects, keys, HEAD.backup)
    assert reader.files() == {os.fsencode(path): data for path, data in CONTENT.items()}
    marked = {row["path"]: row["failed_pages"] for row in reader.rows("files")}
    assert {path for path, count in marked.items() if count} == {"base/5/16384"}


def test_the_head_is_what_the_page_says(made: Made) -> None:
    _, objects, keys = made
    head = Reader(objects, keys, HEAD.backup).head
    page = (Path(__file__).parents[2] / "docs/format.md").read_text()
    section = page[page.index("Head, all members present") : page.index("Body:")]
    named = set(re.findall(r"`([a-z_]+)`", "".join(re.findall(r"^\| (`.*?`) \|", section, re.M))))
    assert named == set(head)
    assert head["system_identifier"] == str(SYSTEM)


def test_the_body_is_what_the_page_says(made: Made) -> None:
    _, objects, keys = made
    reader = Reader(objects, keys, HEAD.backup)
    page = (Path(__file__).parents[2] / "docs/format.md").read_text()
    documented = sqlite3.connect(":memory:")
    documented.executescript(page[page.index("```sql") + 6 : page.index("```\n\n`packs` has")])
    for (table,) in documented.execute("SELECT name FROM sqlite_schema WHERE type = 'table'"):
        columns = documented.execute(f"PRAGMA table_info({table})").fetchall()
        found = reader.database.execute(f"PRAGMA table_info({table})").fetchall()
        assert [tuple(row) for row in found] == columns
    assert [tuple(row) for row in reader.rows("directories")] == [("base/5", 0o700)]
    ((path, target),) = reader.rows("links")
    assert (path, unescaped(target)) == ("pg_tblspc/16400", b"/srv/back\\slash")
    ((oid, name, location),) = reader.rows("tablespaces")
    assert (oid, name, unescaped(location)) == (16400, "fast", b"/srv/back\\slash")
    assert {row["inode"] for row in reader.rows("files")} == {-1}
    facts = {row["name"]: json.loads(row["value"]) for row in reader.rows("facts")}
    assert facts["hash"] == {"kind": 1, "shown": blake3(keys.page_hash_key).hexdigest()}


def test_the_index_of_a_pack_names_every_frame_and_page(made: Made) -> None:
    _, objects, keys = made
    for number in (1, 2):
        pack = Envelope(objects[f"main/{SYSTEM}/packs/{ATTEMPT}/{number:08d}"], keys, kind=1)
        assert pack.header == {"attempt": ATTEMPT, "number": number}
        kind, index = pack.frame(pack.frames - 1)
        assert (kind, pack.index_offset) == (1, pack.places[-1])
        magic, page_size, n, hash_kind, shown = struct.unpack_from("<4sIIB3x32s", index)
        assert (magic, page_size, n, hash_kind) == (b"PKI1", PAGE, pack.frames - 1, 1)
        assert shown == blake3(keys.page_hash_key).digest()
        classes = index[48 : 48 + n]
        columns = [struct.unpack_from(f"<{n}I", index, 48 + n + 4 * n * i) for i in range(4)]
        hashes = index[48 + 17 * n :]
        for frame, (offset, stored, length, pages) in enumerate(zip(*columns, strict=True)):
            kind, plain = pack.frame(frame)
            prefix = struct.unpack_from("<II", pack.data, offset)
            assert prefix == (stored | kind << 31, length)
            assert (offset, length, classes[frame]) == (pack.places[frame], len(plain), kind)
            cut = [plain[at : at + PAGE] for at in range(0, len(plain), PAGE)] if kind == 0 else []
            assert len(cut) == pages
            own = [blake3(page, key=keys.page_hash_key).digest()[:8] for page in cut]
            assert hashes[: 8 * pages] == b"".join(own)
            hashes = hashes[8 * pages :]
        assert hashes == b""


def test_wal_comes_back_and_its_header_tells_it_without_a_key(made: Made) -> None:
    _, objects, keys = made
    for name, content in WAL.items():
        one = Envelope(objects[f"main/{SYSTEM}/wal/{name[:16]}/{name}"], keys, kind=3)
        pieces = one.content(0)
        assert b"".join(pieces) == content
        assert [len(piece) for piece in pieces[:-1]] == [4 << 20] * (len(pieces) - 1)
        header = one.header
        assert (header["name"], header["size"], header["ancestors"]) == (name, len(content), None)
        salted = bytes.fromhex(header["salt"]) + content
        assert header["blake3"] == blake3(salted).hexdigest()
        assert {"kind", "modified", "pushed", "host"} <= set(header)


def test_a_history_file_tells_its_ancestors_without_a_key(made: Made) -> None:
    _, objects, keys = made
    one = Envelope(objects[f"main/{SYSTEM}/history/00000002.history"], keys, kind=3)
    assert one.content(0) == [HISTORY]
    assert one.header["ancestors"] == [[1, "0/580000"]]
    assert one.header["kind"] == "history"


def test_the_fingerprint_is_the_one_that_hosts_pin(made: Made) -> None:
    repository, _, keys = made
    assert keys.fingerprint == repository.identity.fingerprint


def test_the_cluster_has_its_system_record(made: Made) -> None:
    _, objects, _ = made
    members = record(objects["main/systems/00000001"], "system")
    assert members["system_identifier"] == str(SYSTEM)
    assert (members["postgres_major"], members["reason"]) == (18, "first")


def test_a_host_opens_the_metadata_secret_with_its_own_key(tmp_path: Path) -> None:
    repository, identity = make_repository(tmp_path, sealed=True)
    store = repository.store
    keys = Keys({info.key: store.get(info.key) for info in store.list()}, identity)
    secret, public = age.generate_identity()
    add_host(
        store,
        repository.identity,
        metadata_secret=str(keys.secrets[1]),
        name="db",
        public=public,
        at=AT,
        by=BY,
    )
    members = record(store.get("pgkeep/keys/00000002"), "keys")
    (host,) = members["hosts"]
    assert (host["name"], host["public"]) == ("db", public)
    opener = pyrage.x25519.Identity.from_str(secret)
    opened = pyrage.decrypt(host["metadata_secret"].encode(), [opener])
    assert opened.decode() == str(keys.secrets[1])
    assert members["fingerprint"] == keys.fingerprint


def test_every_object_lies_where_the_page_says(made: Made) -> None:
    """Section 1 names every key that there is."""
    _, objects, _ = made
    page = (Path(__file__).parents[2] / "docs/format.md").read_text()
    listed = page[page.index("```\n") + 4 :]
    listed = re.sub(r", pgkeep/", "  \npgkeep/", listed[: listed.index("```")])
    words = [re.split(r"  +", line)[0] for line in listed.splitlines()]
    placeholders = {
        "<number>": r"\d{8}",
        "<number 20>": r"\d{20}",
        "<attempt>": "[0-9a-f]{32}",
        "<backup>": r"\d{8}T\d{6}Z",
        "<system>": r"\d+",
        "<16 hex>": "[0-9A-F]{16}",
    }
    patterns = [re.sub("<.*?>", lambda m: placeholders.get(m[0], "[^/]+"), word) for word in words]
    assert len(patterns) > 20
    for key in objects:
        assert any(re.fullmatch(pattern, key) for pattern in patterns), key


def test_the_newest_check_tells_what_all_found(made: Made) -> None:
    """Section 9: what is bad, and what is proved, of the last record alone."""
    repository, _, keys = made
    first, second = LAYOUT.pack(ATTEMPT, 1), LAYOUT.pack(ATTEMPT, 2)
    backup = HEAD.backup
    lost = Check(
        SCRUB, AT, bad={first: Finding(SCRUB, "cut")}, until=second, round_began=AT, stopped=True
    )
    flaw = Finding(DEEP, "page 2 of base/5/1", is_flaw=True)
    for check in (lost, Check(DEEP, AT, bad={second: flaw}, after=first, broken=(backup,))):
        record_check(repository, LAYOUT, check, by=BY, known=[backup])
    record_check(repository, LAYOUT, Check(QUICK, AT, backups=(backup,)), by=BY, known=[backup])
    stored = {info.key: repository.store.get(info.key) for info in repository.store.list()}
    found = [key for key in sorted(stored) if key.startswith(LAYOUT.checks)]
    assert [key.rpartition("/")[2] for key in found] == ["00000001", "00000002", "00000003"]
    shown = Envelope(stored[found[0]], keys, kind=6).header
    assert shown == {
        "key": found[0],
        "kind": "scrub",
        "after": "",
        "until": second,
        "round_began": AT,
        "stopped": True,
    }
    (plain,) = Envelope(stored[found[-1]], keys, kind=6).content(1)
    members = json.loads(plain)
    assert (members["kind"], members["result"], members["objects"]) == ("quick", "good", [])
    assert members["details"]["backups"] == [backup]
    earlier = members["details"]["earlier"]
    assert {one["key"]: (one["level"], one["flaw"], one["text"]) for one in earlier["bad"]} == {
        first: ("scrub", False, "cut"),
        second: ("deep", True, "page 2 of base/5/1"),
    }
    assert earlier["broken"] == {backup: ["deep", AT]}
    assert earlier["passes"]["scrub"]["until"] == second
