"""Settings come from the place that has precedence, and a wrong name or value is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pgkeep.config import PREFIX, SETTINGS, Settings, load_settings, state_directory
from pgkeep.errors import ConfigError

SECRET = "AGE-SECRET-KEY-1QQQQQQQQQQQQQQQQQQQQQ"


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "pgkeep.toml"
    path.write_text('repo = "file:///from-file"\njobs = 3\ncluster = "file"\n')
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("name", [one.name for one in SETTINGS if one.name.endswith("_file")])
def test_a_setting_that_is_a_file_is_not_taken_for_the_file_of_one(name: str) -> None:
    variable = f"PGKEEP_{name.upper()}"
    settings = load_settings({variable: "/etc/pgkeep/a-file"})
    assert getattr(settings, name) == "/etc/pgkeep/a-file"
    assert settings.origins[name] == f"environment {variable}"


def test_option_beats_environment_beats_file_beats_default(toml: Path) -> None:
    settings = load_settings(
        {"PGKEEP_CONFIG": str(toml), "PGKEEP_JOBS": "5", "PGKEEP_CLUSTER": "environment"},
        overrides={"cluster": "option", "level": None},
    )
    assert (settings.cluster, settings.jobs, settings.repo) == ("option", 5, "file:///from-file")
    assert settings.level == 1
    assert settings.origins["cluster"] == "option --cluster"
    assert settings.origins["jobs"] == "environment PGKEEP_JOBS"
    assert settings.origins["repo"] == f"file {toml}"
    assert settings.origins["level"] == "default"


def test_option_names_another_file_than_the_environment(toml: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text('cluster = "other"\n')
    settings = load_settings({"PGKEEP_CONFIG": str(toml)}, config_file=str(other))
    assert settings.cluster == "other"
    assert settings.repo is None


def test_every_setting_has_a_file_variable(tmp_path: Path) -> None:
    examples = {"jobs": "2", "level": "3", "rate_limit": "1MiB", "nice": "off"}
    for setting in SETTINGS:
        content = tmp_path / setting.name
        content.write_text(f"{examples.get(setting.name, setting.example or 'secret')}\n")
        settings = load_settings({f"{setting.variable}_FILE": str(content)})
        expected = content.read_text().strip()
        shown = settings.shown(setting.name)
        value = getattr(settings, setting.name)
        if setting.kind == "words":
            shown = " ".join(value)
        known = (expected, "1048576", "300", "259200", "False")
        assert str(value) in known or shown == expected, setting.name
        assert settings.origins[setting.name] == f"environment {setting.variable}_FILE"


def test_value_and_file_together_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("y")
    with pytest.raises(ConfigError, match="both set"):
        load_settings({"PGKEEP_REPO": "file:///x", "PGKEEP_REPO_FILE": str(tmp_path / "x")})


def test_empty_variable_counts_as_unset() -> None:
    assert load_settings({"PGKEEP_CLUSTER": ""}).cluster == "main"


@pytest.mark.parametrize(
    ("variable", "right"),
    [("PGKEEP_REPOSITORY", "PGKEEP_REPO"), ("PGKEEP_PASSPRASE", "PGKEEP_PASSPHRASE")],
)
def test_unknown_variable_is_refused_with_the_nearest_right_one(variable: str, right: str) -> None:
    with pytest.raises(ConfigError, match=f"{variable} is not a known.*Did you mean {right}?"):
        load_settings({variable: "x"})


def test_unknown_key_of_the_file_is_refused_with_the_nearest_right_one(toml: Path) -> None:
    toml.write_text('clutser = "x"\n')
    with pytest.raises(ConfigError, match=r"clutser is not .*Did you mean cluster\?"):
        load_settings({}, config_file=str(toml))


def test_variables_that_kubernetes_sets_for_a_service_are_not_ours() -> None:
    load_settings({"PGKEEP_PORT": "tcp://10.0.0.1:80", "PGKEEP_SERVICE_HOST": "10.0.0.1"})
    load_settings({"PGKEEP_PORT_80_TCP_ADDR": "10.0.0.1", "PGKEEP_WEB_SERVICE_PORT": "80"})


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("rate_limit", "100MiB", 100 << 20),
        ("rate_limit", "1g", 1 << 30),
        ("archive_timeout", "90", 90),
        ("archive_timeout", "5min", 300),
        ("archive_timeout", "2 h", 7200),
        ("nice", "off", False),
        ("nice", "YES", True),
        ("jobs", " 7 ", 7),
    ],
)
def test_values_are_read_as_people_write_them(name: str, text: str, value: object) -> None:
    assert getattr(load_settings({PREFIX + name.upper(): text}), name) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("jobs", "0"),
        ("jobs", "many"),
        ("jobs", "-1"),
        ("level", "20"),
        ("rate_limit", "fast"),
        ("rate_limit", "0"),
        ("archive_timeout", "5 weeks"),
        ("archive_timeout", "s"),
        ("nice", "maybe"),
        ("pgdata", "~/data"),
    ],
)
def test_malformed_value_is_refused_and_named(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=PREFIX + name.upper()):
        load_settings({PREFIX + name.upper(): text})


def test_relative_path_in_the_file_is_refused(toml: Path) -> None:
    toml.write_text('identity = "key.txt"\n')
    with pytest.raises(ConfigError, match="not an absolute path"):
        load_settings({}, config_file=str(toml))


def test_file_that_others_may_write_is_refused(toml: Path) -> None:
    toml.chmod(0o602)
    with pytest.raises(ConfigError, match="is refused"):
        load_settings({}, config_file=str(toml))


def test_secret_that_others_may_read_is_warned_of(toml: Path) -> None:
    toml.write_text('passphrase = "hunter2"\n')
    assert load_settings({}, config_file=str(toml)).warnings == ()
    toml.chmod(0o644)
    (warning,) = load_settings({}, config_file=str(toml)).warnings
    assert "chmod 600" in warning
    assert "hunter2" not in warning


def test_file_that_is_named_and_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings({"PGKEEP_CONFIG": str(tmp_path / "missing.toml")})


def test_secrets_are_in_no_text_that_settings_make_of_themselves() -> None:
    settings = load_settings(
        {"PGKEEP_IDENTITY": SECRET, "PGKEEP_PASSPHRASE": "hunter2", "PGKEEP_HOST_KEY": "hosthost"}
    )
    shown = repr(settings) + "".join(settings.shown(setting.name) for setting in SETTINGS)
    for secret in (SECRET, "hunter2", "hosthost"):
        assert secret not in shown
    assert settings.passphrase == "hunter2"


def test_identity_given_as_a_path_is_shown_and_as_text_is_not() -> None:
    assert load_settings({"PGKEEP_IDENTITY": "/keys/me.txt"}).shown("identity") == "/keys/me.txt"
    assert load_settings({"PGKEEP_IDENTITY": SECRET}).shown("identity") == "(hidden)"


def test_malformed_secret_is_not_repeated(toml: Path) -> None:
    toml.write_text("passphrase = 424242\n")
    with pytest.raises(ConfigError) as caught:
        load_settings({}, config_file=str(toml))
    assert "424242" not in str(caught.value)


def test_secret_file_is_read_only_when_the_secret_is_asked_for(tmp_path: Path) -> None:
    settings = load_settings({"PGKEEP_PASSPHRASE_FILE": str(tmp_path / "missing")})
    with pytest.raises(ConfigError, match="PGKEEP_PASSPHRASE_FILE"):
        _ = settings.passphrase


def test_settings_cannot_be_changed() -> None:
    settings = load_settings({})
    with pytest.raises(AttributeError):
        settings.jobs = 3
    assert settings.with_changes(jobs=9).jobs == 9
    assert settings.jobs == load_settings({}).jobs


def test_server_table_is_handed_to_libpq(toml: Path) -> None:
    toml.write_text('[server]\nhost = "/run/x"\nport = 5433\n')
    assert load_settings({}, config_file=str(toml)).server == {"host": "/run/x", "port": "5433"}


def test_workers_are_as_many_as_the_affinity_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert load_settings({}).jobs == 1


# -- the state directory ----------------------------------------------------------------------


def test_state_directory_does_not_depend_on_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = state_directory(load_settings({}), os.geteuid())
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_directory(load_settings({}), os.geteuid()) == before


def test_state_directory_is_the_one_that_is_set() -> None:
    settings = load_settings({"PGKEEP_STATE": "/srv/state"})
    assert state_directory(settings, os.geteuid()) == Path("/srv/state")


def test_place_of_last_resort_is_refused_when_it_is_a_link_or_somebody_elses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from pgkeep.config import state

    place = tmp_path / "place"
    assert state._last_resort(place, os.geteuid()) == place
    assert place.stat().st_mode & 0o777 == 0o700
    assert state._last_resort(place, os.geteuid()) == place
    with pytest.raises(ConfigError, match="refused"):
        state._last_resort(place, os.geteuid() + 1)
    link = tmp_path / "link"
    link.symlink_to(place)
    with pytest.raises(ConfigError, match="refused"):
        state._last_resort(link, os.geteuid())
    place.chmod(0o777)
    with pytest.raises(ConfigError, match="refused"):
        state._last_resort(place, os.geteuid())


def test_settings_type_is_what_the_table_says() -> None:
    assert {setting.name for setting in SETTINGS} < set(Settings.__annotations__)


@pytest.mark.parametrize(
    "text", ["host=db1 password=Sesam-42", "postgresql://me:Sesam-42@db1/postgres"]
)
def test_a_password_in_the_way_to_the_primary_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ConfigError, match="passfile=") as caught:
        load_settings({"PGKEEP_PRIMARY": text})
    assert "Sesam" not in str(caught.value)
    assert load_settings({"PGKEEP_PRIMARY": "host=db1,db2 user=me"}).primary
