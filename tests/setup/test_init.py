"""``init`` makes or joins a repository once, whatever state the server is in, and proves keys."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pgkeep.seal import age
from pgkeep.setup.papers import rescue_script
from tests.cli.kit import Pgkeep
from tests.factory import ServerFactory
from tests.server_user import server_user
from tests.servers import PgServer

THREE_WAYS = ("--recipient", "--passphrase-file", "--no-encryption")


@pytest.fixture
def pgkeep() -> Pgkeep:
    return Pgkeep()


def secret_file(pgkeep: Pgkeep, name: str, text: str) -> Path:
    """A file that the server's user may read."""
    path = pgkeep.root / name
    path.write_text(text)
    path.chmod(0o600)
    return server_user().own(path)


def object_names(pgkeep: Pgkeep) -> list[str]:
    """The keys of all objects; what the store keeps for itself begins with a dot."""
    paths = (path.relative_to(pgkeep.repository) for path in pgkeep.repository.rglob("*"))
    return sorted(
        str(path)
        for path in paths
        if path.parts[0][0] != "." and (pgkeep.repository / path).is_file()
    )


def test_without_a_way_to_seal_nothing_is_made_and_the_three_are_named(
    pgkeep: Pgkeep, server: PgServer
) -> None:
    done = pgkeep.of(server)("init", code=2)
    assert all(way in done.stderr for way in THREE_WAYS)
    assert not pgkeep.repository.exists()


def test_an_empty_directory_is_no_repository_either(pgkeep: Pgkeep, server: PgServer) -> None:
    pgkeep.repository.mkdir()
    server_user().own(pgkeep.repository)
    done = pgkeep.of(server)("init", code=2)
    assert all(way in done.stderr for way in THREE_WAYS)
    assert list(pgkeep.repository.iterdir()) == []


def test_two_ways_to_seal_are_refused(pgkeep: Pgkeep, server: PgServer) -> None:
    pgkeep.of(server)("init", "--no-encryption", "--recipient", pgkeep.public, code=2)
    assert not pgkeep.repository.exists()


def test_new_repository_gives_a_recovery_sheet_without_the_secret(
    pgkeep: Pgkeep, server: PgServer
) -> None:
    done = pgkeep.of(server)("init", "--recipient", pgkeep.public, PGKEEP_IDENTITY=pgkeep.secret)
    identifier = server.psql("SELECT system_identifier FROM pg_control_system()")
    for fact in (f"file://{pgkeep.repository}", identifier, pgkeep.public, "Proved"):
        assert fact in done.stdout
    assert pgkeep.secret not in done.stdout + done.stderr
    script = pgkeep.repository / "pgkeep/rescue.py"
    assert script.read_bytes() == rescue_script()
    readme = (pgkeep.repository / "pgkeep/README.txt").read_text()
    assert pgkeep.public in readme
    assert pgkeep.secret not in readme


def test_second_init_reports_the_same_and_changes_nothing(pgkeep: Pgkeep, server: PgServer) -> None:
    first = pgkeep.of(server).json("init", "--recipient", pgkeep.public)
    objects = object_names(pgkeep)
    second = pgkeep.json("init", "--recipient", pgkeep.public)
    assert first["created"] is True
    assert second["created"] is False
    assert (first["registered"], second["registered"]) == (True, False)
    assert first["fingerprint"] == second["fingerprint"]
    assert (first["host_key"], second["host_key"]) == ("made", "present")
    assert objects == object_names(pgkeep)


def test_a_repository_without_the_rescue_script_gets_it_at_the_next_init(
    pgkeep: Pgkeep, server: PgServer
) -> None:
    pgkeep.of(server)("init", "--recipient", pgkeep.public)
    script = pgkeep.repository / "pgkeep/rescue.py"
    script.unlink()
    pgkeep("init")
    assert script.read_bytes() == rescue_script()


def test_new_host_can_list_at_once(pgkeep: Pgkeep, server: PgServer) -> None:
    pgkeep.of(server)("init", "--recipient", pgkeep.public)
    assert pgkeep.json("list")["backups"] == []


def test_init_works_while_the_server_is_down(pgkeep: Pgkeep, server_factory: ServerFactory) -> None:
    server = server_factory.create()
    pgkeep.of(server)
    refused = pgkeep("init", "--no-encryption", code=10)
    assert "PGKEEP_PGDATA" in refused.stderr
    report = pgkeep.json("init", "--no-encryption", "--pgdata", server.pgdata)
    server.start()
    running = server.psql("SELECT system_identifier FROM pg_control_system()")
    assert str(report["system_identifier"]) == running
    assert report["postgres_major"] == server.installation.major
    assert pgkeep.json("init")["registered"] is False


def test_data_directory_of_another_server_is_refused(
    pgkeep: Pgkeep, server_factory: ServerFactory
) -> None:
    server, other = server_factory(), server_factory.create()
    done = pgkeep.of(server)("init", "--no-encryption", "--pgdata", other.pgdata, code=11)
    assert "is not the running server's" in done.stderr
    assert not pgkeep.repository.exists()


def test_recreated_cluster_is_refused_until_the_user_says_that_it_is_meant(
    pgkeep: Pgkeep, server_factory: ServerFactory
) -> None:
    old, new = server_factory.create(), server_factory.create()
    pgkeep("init", "--no-encryption", PGKEEP_PGDATA=str(old.pgdata))
    refused = pgkeep("init", code=63, PGKEEP_PGDATA=str(new.pgdata))
    assert "--new-system" in refused.stderr
    assert pgkeep.json("list")["system_identifier"] == str(
        pgkeep.json("init", PGKEEP_PGDATA=str(old.pgdata))["system_identifier"]
    )
    report = pgkeep.json("init", "--new-system", PGKEEP_PGDATA=str(new.pgdata))
    assert report["registered"] is True
    assert pgkeep.json("list")["system_identifier"] == str(report["system_identifier"])
    # The way back is meant just as little.
    pgkeep("init", code=63, PGKEEP_PGDATA=str(old.pgdata))


def test_second_cluster_may_have_a_name_of_its_own(
    pgkeep: Pgkeep, server_factory: ServerFactory
) -> None:
    one, two = server_factory.create(), server_factory.create()
    pgkeep("init", "--no-encryption", PGKEEP_PGDATA=str(one.pgdata))
    pgkeep("init", "--cluster", "two", PGKEEP_PGDATA=str(two.pgdata))
    listed = {
        pgkeep.json("list", "--cluster", name)["system_identifier"] for name in ("main", "two")
    }
    assert len(listed) == 2


@pytest.mark.parametrize("name", ["pgkeep", "a/b", "../x", "-x", "x" * 64])
def test_cluster_name_that_cannot_be_a_key_is_refused(down: Pgkeep, name: str) -> None:
    down("init", "--no-encryption", f"--cluster={name}", code=3)
    assert not down.repository.exists()


# -- keys -------------------------------------------------------------------------------------


@pytest.fixture
def down(newest_installation, pgkeep: Pgkeep) -> Pgkeep:
    """Commands for a cluster that is down."""
    server = PgServer.create(newest_installation)
    pgkeep.environ["PGKEEP_PGDATA"] = str(server.pgdata)
    return pgkeep


def other_host(pgkeep: Pgkeep) -> str:
    """Another, empty state directory."""
    return str(pgkeep.root / "other-state")


def test_joining_without_the_identity_says_what_this_host_cannot_do(down: Pgkeep) -> None:
    down("init", "--recipient", down.public)
    joined = down("init", PGKEEP_STATE=other_host(down))
    assert "cannot list backups" in joined.stderr
    assert down("list", code=None, PGKEEP_STATE=other_host(down)).returncode in (0, 51)
    assert down.json("init", PGKEEP_STATE=other_host(down))["can_list"] is False


def test_joining_with_the_identity_gives_this_host_a_key(down: Pgkeep) -> None:
    down("init", "--recipient", down.public)
    report = down.json("init", PGKEEP_STATE=other_host(down), PGKEEP_IDENTITY=down.secret)
    assert (report["host_key"], report["proved"]) == ("made", True)
    again = down.json("init", PGKEEP_STATE=other_host(down))
    assert again["host_key"] == "present"
    # The first host's key is as good as before.
    assert down.json("init")["host_key"] == "present"


def test_wrong_identity_is_found_out(down: Pgkeep) -> None:
    down("init", "--recipient", down.public)
    down("init", code=52, PGKEEP_IDENTITY=age.generate_identity()[0])


def test_identity_that_does_not_open_a_new_repository_is_found_out(down: Pgkeep) -> None:
    wrong = age.generate_identity()[0]
    down("init", "--recipient", down.public, code=52, PGKEEP_IDENTITY=wrong)


def test_each_of_several_recipients_opens_the_repository(down: Pgkeep) -> None:
    second_secret, second_public = age.generate_identity()
    file = secret_file(down, "recipients", f"# both of us\n{second_public}\n")
    down("init", "--recipient", down.public, "-R", file)
    for secret in (down.secret, second_secret):
        assert down.json("init", PGKEEP_IDENTITY=secret)["proved"] is True


def test_passphrase_seals_and_opens(down: Pgkeep) -> None:
    file = secret_file(down, "passphrase", "correct horse battery staple\n")
    report = down.json("init", "--passphrase-file", file)
    assert (report["passphrase"], report["proved"]) == (True, True)
    assert down.json("init")["proved"] is False
    assert down.json("init", PGKEEP_PASSPHRASE_FILE=str(file))["proved"] is True
    down("init", code=52, PGKEEP_PASSPHRASE="wrong")


def test_secret_key_given_as_recipient_is_refused_and_not_repeated(down: Pgkeep) -> None:
    done = down("init", "--recipient", down.secret, code=3)
    assert down.secret not in done.stdout + done.stderr
    assert not list(down.repository.iterdir())


def test_other_sealing_than_the_existing_one_is_explained(down: Pgkeep) -> None:
    down("init", "--recipient", down.public)
    other = age.generate_identity()[1]
    done = down("init", "--recipient", other, code=60)
    assert down.public in done.stderr
    down("init", "--no-encryption", code=60)


def test_replaced_repository_is_refused_until_its_fingerprint_is_accepted(down: Pgkeep) -> None:
    down("init", "--recipient", down.public)
    down.repository.rename(down.root / "moved-away")
    fingerprint = down.json("init", "--recipient", down.public, PGKEEP_STATE=other_host(down))[
        "fingerprint"
    ]
    refused = down("init", code=53)
    assert fingerprint in refused.stderr
    down("init", "--accept-fingerprint", "0" * 32, code=53)
    down("init", "--accept-fingerprint", fingerprint)
    down("init")


# -- whose files ------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_what_root_makes_belongs_to_the_owner_of_the_data_directory(down: Pgkeep) -> None:
    down.root.chmod(0o755)
    os.chown(down.root, 0, 0)
    down("init", "--recipient", down.public, as_root=True)
    owner = server_user().uid
    for place in (down.repository, down.state):
        assert place.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_uid for path in (place, *place.rglob("*"))} == {owner}
    assert down.json("init")["host_key"] == "present"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_finds_the_owner_by_the_servers_socket(pgkeep: Pgkeep, server: PgServer) -> None:
    pgkeep.of(server)("init", "--no-encryption", as_root=True)
    assert {path.stat().st_uid for path in pgkeep.repository.rglob("*")} == {server_user().uid}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_identity_file_of_root_alone_is_read_before_root_is_given_up(down: Pgkeep) -> None:
    file = down.root / "identity"
    file.write_text(down.secret)
    file.chmod(0o600)
    down("init", "--recipient", down.public)
    done = down("init", as_root=True, PGKEEP_IDENTITY=str(file))
    assert "Proved" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_passphrase_file_of_root_alone_is_read_before_root_is_given_up(down: Pgkeep) -> None:
    down.root.chmod(0o755)
    file = down.root / "passphrase"
    file.write_text("correct horse")
    file.chmod(0o600)
    done = down("init", "--passphrase-file", str(file), as_root=True)
    assert "Proved" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_missing_repository_directory_is_not_made_by_root_in_passing(down: Pgkeep) -> None:
    """What is missing may be a mount; an empty directory in its place would hide that."""
    down.root.chmod(0o755)
    os.chown(down.root, 0, 0)
    for command in (("list",), ("init",), ("show", "latest")):
        refused = down(*command, code=None, as_root=True)
        assert refused.returncode in (2, 46)
        assert str(down.repository) in refused.stderr
        assert not down.repository.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_repository_directory_that_the_owner_cannot_write_is_an_error_with_a_remedy(
    down: Pgkeep,
) -> None:
    down.repository.mkdir(0o755)
    os.chown(down.repository, 0, 0)
    done = down("init", "--no-encryption", code=None, as_root=True)
    assert done.returncode in (4, 44), done.stderr
    assert str(down.repository) in done.stderr
