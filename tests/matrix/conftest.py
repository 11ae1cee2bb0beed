"""Fixtures of the matrix that starts servers: those of the backup's tests."""

from tests.backup.conftest import make_lineage as make_lineage
from tests.backup.conftest import make_site as make_site
