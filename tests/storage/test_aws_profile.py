"""Profiles of AWS's own files, as botocore reads them, on a store that checks signatures."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pgkeep.errors import ConfigError, StoreDenied, StoreError
from pgkeep.storage.aws_profile import find_profile
from pgkeep.storage.object_store import ObjectStore
from pgkeep.storage.options import StoreOptions
from tests.object_stores import KEY, SECRET, Service, object_service


@pytest.fixture
def minio(request: pytest.FixtureRequest) -> Service:
    return object_service(request, "minio")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".aws").mkdir()
    return tmp_path


def _profile_options(minio: Service, **options: str) -> StoreOptions:
    return StoreOptions(endpoint=minio.options.endpoint, **options)


def test_a_profile_with_keys_opens_the_store(minio: Service, tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.write_text(
        "[default]\naws_access_key_id = other\naws_secret_access_key = other\n"
        f"[backups]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
    )
    options = _profile_options(minio, aws_credentials_file=str(credentials))
    place = minio.new_place()
    store = ObjectStore(place, options._replace(profile="backups"))
    store.put("a", b"x")
    assert store.get("a") == b"x"
    with pytest.raises(StoreDenied):
        ObjectStore(place, options._replace(profile="default")).get("a")


def test_a_profile_may_ask_a_process_and_tell_the_region(minio: Service, home: Path) -> None:
    process = home / "process.py"
    process.write_text(
        "import json; print(json.dumps({'Version': 1, 'AccessKeyId': "
        f"{KEY!r}, 'SecretAccessKey': {SECRET!r}}}))"
    )
    (home / ".aws" / "config").write_text(
        f"[profile backups]\nregion = eu-west-3\ncredential_process = {sys.executable} {process}\n"
    )
    profile = find_profile(StoreOptions(profile="backups"))
    assert profile is not None
    assert profile.region == "eu-west-3"
    store = ObjectStore(
        minio.new_place(), _profile_options(minio, profile="backups", region="us-east-1")
    )
    store.put("a", b"x")


def test_the_default_profile_is_used_where_nothing_else_is_given(
    minio: Service, home: Path
) -> None:
    assert find_profile(StoreOptions()) is None
    (home / ".aws" / "credentials").write_text(
        f"[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
    )
    ObjectStore(minio.new_place(), _profile_options(minio)).put("a", b"x")


def test_a_profile_that_is_not_there_is_named(home: Path) -> None:
    with pytest.raises(StoreError, match="nobody"):
        find_profile(StoreOptions(profile="nobody"))


def test_without_botocore_a_profile_is_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setitem(sys.modules, "botocore", None)
    with pytest.raises(ConfigError, match=r"pgkeep\[aws\]"):
        find_profile(StoreOptions(profile="backups"))
    (home / ".aws" / "credentials").write_text("[default]\n")
    assert find_profile(StoreOptions()) is None
