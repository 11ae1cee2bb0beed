"""Fixtures of real servers, and what the run says of the PostgreSQL versions it used.

Tests that take ``pg_installation``, ``server`` or ``server_factory`` run once for PostgreSQL
15 and once for 18, the oldest and the newest supported. Where 15 is missing, the oldest found
stands in for it. ``@pytest.mark.every_major`` adds those between; ``@pytest.mark.majors(18)``
restricts; ``--majors=16,17`` or ``--majors=all`` decides for the whole run.

A version that is missing is a skip with its reason; with ``CI=true``, for 15 and 18, an error.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import program
from tests.factory import ServerFactory
from tests.installations import (
    MUST_MAJORS,
    SUPPORTED_MAJORS,
    Installation,
    find_installations,
    why_missing,
)
from tests.object_stores import NO_METADATA
from tests.servers import PgServer, made_directories, new_directory

_OWN_DIRECTORIES = pytest.StashKey[list[Path]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--majors", default="", help="PostgreSQL majors to test with: 15,18 or all (found)"
    )


def pytest_configure(config: pytest.Config) -> None:
    # No test may meet a server, a repository or a store that the user has around, nor ask the
    # machine for credentials: it has none that are meant for tests.
    around = ("PG", "AWS_", "GOOGLE_", "AZURE_")
    for name in [name for name in os.environ if name.startswith(around)]:
        del os.environ[name]
    os.environ.update(NO_METADATA)
    # `kill` shall end a run as Ctrl-C does, through every `finally`.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _wanted_by_option(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "pg_installation" in metafunc.fixturenames:
        majors = _wanted_majors(metafunc)
        metafunc.parametrize(
            "pg_installation", majors, indirect=True, ids=[f"pg{major}" for major in majors]
        )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    starters = {"pg_installation", "newest_installation"}
    for item in items:
        if starters & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.server)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """What the body of a test makes is its own; fixtures look after what they make."""
    made_directories.clear()
    try:
        return (yield)
    finally:
        item.stash[_OWN_DIRECTORIES] = made_directories.copy()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """Thousands of tests would fill a disk that has room for each."""
    try:
        return (yield)
    finally:
        for path in item.stash.get(_OWN_DIRECTORIES, []):
            shutil.rmtree(path, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what its servers said."""
    report = yield
    factory = getattr(item, "funcargs", {}).get("server_factory")
    if factory is not None and call.when == "call" and report.failed:
        report.sections.extend(factory.logs())
    return report


@pytest.fixture
def pg_installation(request: pytest.FixtureRequest) -> Installation:
    """One installed PostgreSQL; the test runs once for each major that is to be tested."""
    return _installation(request, request.param)


@pytest.fixture
def newest_installation(request: pytest.FixtureRequest) -> Installation:
    """The newest PostgreSQL, for tests in which the version makes no difference."""
    return _installation(request, max(find_installations(), default=MUST_MAJORS[-1]))


@pytest.fixture
def server_factory(pg_installation: Installation) -> Iterator[ServerFactory]:
    """Makes as many servers as the test needs."""
    factory = ServerFactory(pg_installation)
    yield factory
    factory.close()


@pytest.fixture
def server(server_factory: ServerFactory) -> PgServer:
    """A fresh running server."""
    return server_factory()


@pytest.fixture
def server_tmp() -> Iterator[Path]:
    """An empty directory that the server's user owns and can reach, by a short path.

    pytest's own tmp_path is closed to ``nobody`` when the tests run as root.
    """
    path = new_directory()
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def pgkeep_program() -> Path:
    """The ``pgkeep`` command by absolute path, which the server's user can execute."""
    return program.pgkeep_program()


def _installation(request: pytest.FixtureRequest, major: int) -> Installation:
    found = find_installations().get(major)
    if found is None:
        message = f"PostgreSQL {major}: {why_missing(major)}"
        if os.environ.get("CI") == "true" and major in MUST_MAJORS:
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    request.node.user_properties.append(("postgresql", str(found)))
    return found


def _wanted_majors(metafunc: pytest.Metafunc) -> list[int]:
    by_option = _wanted_by_option(metafunc.config)
    majors = set(MUST_MAJORS) | _stand_in()
    if metafunc.definition.get_closest_marker("every_major"):
        majors = set(SUPPORTED_MAJORS)
    if by_option is not None:
        majors = by_option
    only = metafunc.definition.get_closest_marker("majors")
    if only is not None:
        majors = set(only.args) if by_option is None else majors & set(only.args)
    return sorted(majors)


def _stand_in() -> set[int]:
    """The oldest version found, where the oldest supported is missing."""
    found = find_installations()
    return set() if MUST_MAJORS[0] in found else {min(found)} if found else set()


def _wanted_by_option(config: pytest.Config) -> set[int] | None:
    option = config.getoption("--majors")
    if not option:
        return None
    if option == "all":
        return set(find_installations())
    try:
        return {int(part) for part in option.split(",")}
    except ValueError:
        raise pytest.UsageError(f"--majors={option}: give numbers, as in --majors=15,18") from None


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Which PostgreSQL versions and object stores were used, and which were not, and why."""
    used = _used(terminalreporter, "postgresql")
    if used:
        _print_versions(terminalreporter, used)
    stores = _used(terminalreporter, "object store")
    missing = _used(terminalreporter, "object store missing")
    if stores or missing:
        terminalreporter.section("Object stores")
        for name, count in sorted(stores.items()):
            terminalreporter.line(f"used     {name}: {count} tests")
        for reason, count in sorted(missing.items()):
            terminalreporter.line(f"skipped  {reason}: {count} tests")


def _used(terminalreporter: Any, kind: str) -> dict[str, int]:
    """How many tests used each of what they noted under this name."""
    used: dict[str, int] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            phases = ("setup", "call") if kind.endswith("missing") else ("call",)
            if getattr(report, "when", None) in phases:
                for name, value in report.user_properties:
                    if name == kind:
                        used[value] = used.get(value, 0) + 1
    return used


def _print_versions(terminalreporter: Any, used: dict[str, int]) -> None:
    terminalreporter.section("PostgreSQL versions")
    for name, count in sorted(used.items()):
        terminalreporter.line(f"used     {name}: {count} tests")
    for major in SUPPORTED_MAJORS:
        if any(name.startswith(f"PostgreSQL {major}") for name in used):
            continue
        found = find_installations().get(major)
        reason = why_missing(major) if found is None else f"no test chosen asks for it ({found})"
        terminalreporter.line(f"skipped  PostgreSQL {major}: {reason}")
    terminalreporter.line(f"Python {sys.version.split()[0]}, {program.native_module()}")
