"""A configuration from elsewhere becomes one that starts here, and nothing of it is lost."""

from __future__ import annotations

from pgkeep.postgres.conf import parse_conf
from pgkeep.restore.config_files import flatten

MAIN = "/etc/postgresql/15/main/postgresql.conf"
DEBIAN = """\
data_directory = '/var/lib/postgresql/15/main'\t\t# use data in another directory
hba_file = '/etc/postgresql/15/main/pg_hba.conf'
ident_file = '/etc/postgresql/15/main/pg_ident.conf'
external_pid_file = '/var/run/postgresql/15-main.pid'
port = 5432
unix_socket_directories = '/var/run/postgresql'
ssl = on
ssl_cert_file = '/etc/ssl/certs/ssl-cert-snakeoil.pem'
ssl_key_file = '/etc/ssl/private/ssl-cert-snakeoil.key'
cluster_name = '15/main'
include_dir = 'conf.d'
include_if_exists = 'absent.conf'
"""
TEXTS = {
    MAIN: DEBIAN,
    "/etc/postgresql/15/main/conf.d/20-b.conf": "work_mem = 8MB\ndata_directory = '/elsewhere'",
    "/etc/postgresql/15/main/conf.d/10-a.conf": "work_mem = 4MB\ninclude '../more.conf'\n",
    "/etc/postgresql/15/main/more.conf": "jit = off\n",
}


def test_what_ties_it_to_another_place_is_commented_out_with_the_reason() -> None:
    text, changed = flatten(MAIN, TEXTS, exists=lambda _: False)
    settings = dict(parse_conf(text))
    assert settings == {
        "port": "5432",
        "cluster_name": "15/main",
        "work_mem": "8MB",
        "jit": "off",
    }
    assert any(line.startswith("ssl = on (its certificate") for line in changed)
    assert any(line.startswith("unix_socket_directories") for line in changed)
    assert "data_directory = '/elsewhere'" in text  # commented out, and kept


def test_what_is_here_stays() -> None:
    text, _ = flatten(MAIN, TEXTS, exists=lambda _: True)
    settings = dict(parse_conf(text))
    assert settings["ssl"] == "on"
    assert settings["unix_socket_directories"] == "/var/run/postgresql"
    assert "data_directory" not in settings


def test_includes_are_put_in_place_in_the_servers_order() -> None:
    text, _ = flatten(MAIN, TEXTS, exists=lambda _: True)
    assert [value for name, value in parse_conf(text) if name == "work_mem"] == ["4MB", "8MB"]
    assert dict(parse_conf(text))["jit"] == "off"
    assert "include" not in dict(parse_conf(text))


def test_a_file_that_includes_itself_ends() -> None:
    text, _ = flatten("/a.conf", {"/a.conf": "include 'a.conf'\njit = on\n"}, exists=lambda _: True)
    assert dict(parse_conf(text)) == {"jit": "on"}
