"""URLs and settings of object stores: what they mean, and what is refused before any request."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgkeep.cli.store_settings import left_for_server, store_options, without_secrets
from pgkeep.config import SETTINGS, load_settings
from pgkeep.config.store_table import STORE_SETTINGS
from pgkeep.errors import ConfigError
from pgkeep.storage import open_store
from pgkeep.storage._object_settings import is_virtual, s3_endpoint
from pgkeep.storage.object_url import ObjectPlace, parse_object_url
from pgkeep.storage.options import StoreOptions

KEYS = {"access_key_id": "id", "secret_access_key": "hunter2"}


@pytest.mark.parametrize(
    ("url", "place", "again"),
    [
        ("s3://bucket/a/b", ("s3", "bucket", "a/b"), "s3://bucket/a/b"),
        ("S3://bucket", ("s3", "bucket", ""), "s3://bucket"),
        ("s3://bucket/", ("s3", "bucket", ""), "s3://bucket"),
        ("gs://my.bucket_1/pg/", ("gs", "my.bucket_1", "pg"), "gs://my.bucket_1/pg"),
        ("az://container/pg", ("az", "container", "pg"), "az://container/pg"),
    ],
)
def test_these_urls_name_places(url: str, place: tuple[str, str, str], again: str) -> None:
    assert parse_object_url(url) == ObjectPlace(*place)
    assert parse_object_url(url).url == again


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3:", "names no bucket"),
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("az://", "names no container"),
        ("s3:bucket", "names no bucket"),
        ("s3://host:9000/bucket", "PGKEEP_ENDPOINT=https://host:9000"),
        ("s3://bucket/a?endpoint=x", "PGKEEP_ENDPOINT"),
        ("s3://bucket/a#b", "'#'"),
        ("s3://b@d/x", "'@'"),
        ("s3://-bucket/x", "not the name of a bucket"),
        ("s3://bucket/a//b", "prefix"),
        ("s3://bucket/../b", "prefix"),
        ("s3://bucket/.hidden", "prefix"),
        ("s3://bucket/a b", "prefix"),
    ],
)
def test_these_urls_are_refused_with_a_remedy(url: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(url, StoreOptions(account="a", **KEYS))
    assert says in str(caught.value)
    assert caught.value.remedy


def test_keys_in_a_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        open_store("s3://AKIA:hunter2@bucket/x")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "options", "says"),
    [
        ("s3://bucket", {"access_key_id": "id"}, "PGKEEP_SECRET_ACCESS_KEY"),
        ("s3://bucket", {"secret_access_key": "x"}, "PGKEEP_ACCESS_KEY_ID"),
        ("s3://bucket", {"kms_key": "k", **KEYS}, "aws:kms"),
        ("az://container", {}, "PGKEEP_ACCOUNT"),
    ],
)
def test_settings_that_clash_are_refused(url: str, options: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        open_store(url, StoreOptions(**options))


def test_a_certificate_file_that_is_none_is_refused(tmp_path: Path) -> None:
    store = open_store("s3://bucket", StoreOptions(ca_file=str(tmp_path / "missing"), **KEYS))
    with pytest.raises(ConfigError, match="PGKEEP_CA_FILE"):
        store.get("a")
    (tmp_path / "missing").write_text("nothing")
    with pytest.raises(ConfigError, match="no certificate"):
        store.get("a")


@pytest.mark.parametrize(
    ("bucket", "options", "virtual"),
    [
        ("bucket", {}, True),
        ("my.bucket", {}, False),
        ("bucket", {"endpoint": "https://h"}, False),
        ("bucket", {"endpoint": "https://h", "addressing": "virtual"}, True),
        ("bucket", {"addressing": "path"}, False),
    ],
)
def test_where_the_bucket_stands(bucket: str, options: dict[str, str], virtual: bool) -> None:
    place, given = ObjectPlace("s3", bucket, ""), StoreOptions(**options)
    assert is_virtual(place, given) == virtual
    if "endpoint" in options:
        assert s3_endpoint(place, given) == ("https://bucket.h" if virtual else "https://h")


def test_options_print_no_secret() -> None:
    secrets = ("secret_access_key", "session_token", "account_key", "sas_token", "sftp_password")
    shown = repr(StoreOptions(**dict.fromkeys(secrets, "hunter2")))
    assert "hunter2" not in shown
    assert {s.name for s in SETTINGS if s.secret and s.stores} == {*secrets}


def test_each_option_is_a_setting() -> None:
    assert {setting.name for setting in STORE_SETTINGS} == set(StoreOptions._fields)


# -- the providers' own variables ---------------------------------------------------------------


def test_a_providers_variables_count_for_its_own_scheme_only() -> None:
    environ = {
        "AWS_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL": "https://aws.example",
        "AZURE_STORAGE_ACCOUNT": "acme",
        "GOOGLE_APPLICATION_CREDENTIALS": "/g.json",
    }
    s3 = load_settings({**environ, "PGKEEP_REPO": "s3://b"})
    assert (s3.region, s3.endpoint, s3.account) == ("eu-west-1", "https://aws.example", None)
    assert s3.origins["region"] == "environment AWS_REGION"
    az = load_settings({**environ, "PGKEEP_REPO": "az://c"})
    assert (az.region, az.endpoint, az.account) == (None, None, "acme")
    gs = load_settings({**environ, "PGKEEP_REPO": "gs://b"})
    assert gs.credentials_file == "/g.json"
    local = load_settings({**environ, "PGKEEP_REPO": "/srv"})
    assert (local.region, local.account, local.credentials_file) == (None, None, None)


def test_a_setting_of_our_own_beats_the_providers_variable(tmp_path: Path) -> None:
    config = tmp_path / "pgkeep.toml"
    config.write_text('repo = "s3://b"\nregion = "from-file"\n')
    settings = load_settings({"AWS_REGION": "theirs"}, config_file=str(config))
    assert settings.region == "from-file"


def test_the_special_variable_beats_the_general_one() -> None:
    environ = {"AWS_ENDPOINT_URL": "http://all", "AWS_ENDPOINT_URL_S3": "http://s3"}
    assert load_settings({"PGKEEP_REPO": "s3://b", **environ}).endpoint == "http://s3"


@pytest.mark.parametrize("own", ["PGKEEP_ACCESS_KEY_ID", "PGKEEP_PROFILE"])
def test_a_key_is_never_made_of_ours_and_theirs(own: str) -> None:
    theirs = {
        "AWS_ACCESS_KEY_ID": "theirs",
        "AWS_SECRET_ACCESS_KEY": "theirs",
        "AWS_SESSION_TOKEN": "theirs",
        "AWS_PROFILE": "theirs",
    }
    settings = load_settings({"PGKEEP_REPO": "s3://b", own: "ours", **theirs})
    options = store_options(settings)
    assert options is not None
    assert "theirs" not in (
        options.access_key_id,
        options.secret_access_key,
        options.session_token,
        options.profile,
    )


def test_a_secret_file_of_another_store_is_not_read(tmp_path: Path) -> None:
    environ = {"PGKEEP_ACCOUNT_KEY_FILE": str(tmp_path / "missing"), "PGKEEP_REPO": "s3://b"}
    assert store_options(load_settings(environ)) == StoreOptions()
    assert store_options(load_settings({**environ, "PGKEEP_REPO": "/srv"})) is None


def test_what_is_left_for_a_server_is_all_that_is_in_force(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2\n")
    settings = load_settings(
        {
            "PGKEEP_REPO": "s3://b/p",
            "PGKEEP_SECRET_ACCESS_KEY_FILE": str(secret),
            "PGKEEP_ACCESS_KEY_ID": "id",
            "AWS_REGION": "eu-west-1",
        }
    )
    assert left_for_server(settings) == {
        "region": "eu-west-1",
        "access_key_id": "id",
        "secret_access_key": "hunter2",
    }
    by_file = left_for_server(settings, secrets_by_file=True)
    assert by_file["secret_access_key_file"] == str(secret)
    assert "secret_access_key" not in by_file
    assert left_for_server(load_settings({"PGKEEP_REPO": "/srv"})) == {}


def test_a_profile_is_left_with_its_files(tmp_path: Path) -> None:
    files = {}
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        files[name] = str(tmp_path / name)
        (tmp_path / name).touch()
    settings = load_settings({"PGKEEP_REPO": "s3://b", "AWS_PROFILE": "backups", **files})
    assert left_for_server(settings) == {
        "profile": "backups",
        "aws_credentials_file": files["AWS_SHARED_CREDENTIALS_FILE"],
        "aws_config_file": files["AWS_CONFIG_FILE"],
    }


def test_lines_of_a_settings_file_are_shown_without_secrets() -> None:
    lines = ['secret_access_key = "hunter2"', 'region = "x"', "[server]"]
    assert without_secrets(lines) == ('secret_access_key = "(hidden)"', *lines[1:])
