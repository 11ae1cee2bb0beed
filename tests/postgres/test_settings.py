"""Only tested majors are accepted, and only settings that exist are written."""

from __future__ import annotations

import pytest

from pgkeep.errors import UnsupportedVersion
from pgkeep.postgres import settings
from pgkeep.postgres.recovery import RecoveryTarget, copy_settings, recovery_settings
from pgkeep.postgres.settings import check_major
from tests.servers import PgServer


@pytest.mark.parametrize("major", settings.SUPPORTED_MAJORS)
def test_supported_majors_pass(major: int) -> None:
    assert check_major(major) == major


@pytest.mark.parametrize("major", [9, 14, 19])
def test_another_major_is_refused_with_the_way_to_force_it(major: int) -> None:
    with pytest.raises(UnsupportedVersion, match=f"PGKEEP_FORCE_VERSION={major}"):
        check_major(major)
    assert check_major(major, force=True) == major


@pytest.mark.every_major
def test_every_setting_that_we_write_exists_on_the_server(server: PgServer) -> None:
    major = server.installation.major
    known = set(server.psql("SELECT name FROM pg_settings").split())
    written = recovery_settings(RecoveryTarget("latest"), 1, restore_command="")
    names = {name for name, _ in [*written, *copy_settings(major)]}
    names |= {*settings.ARCHIVE_SETTINGS, *settings.HOT_STANDBY_LIMITS}
    listed = (
        *settings.RECOVERY_SETTINGS,
        *settings.STANDBY_SETTINGS,
        *settings.REPLICATION_SETTINGS,
    )
    assert names <= known
    assert {name for name in listed if settings.setting_exists(name, major)} == known & set(listed)
