"""Moments whose content is known, and the ways to ask for them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pgkeep.postgres.lsn import Lsn
from pgkeep.postgres.recovery import RecoveryTarget
from pgkeep.restore import target
from pgkeep.restore.target import AskedTarget
from tests.digest import Digest, cluster_digest
from tests.servers import PgServer

KINDS = ("time", "lsn", "xid", "name")


@dataclass
class Moment:
    """The content just after transaction ``xid``, which was committed at ``time``. ``lsn`` is that
    of the restore point ``name``, right behind it. ``lost`` is set when a failover left it behind:
    then it is on its own timeline only."""

    name: str
    timeline: int
    time: datetime
    lsn: Lsn
    xid: int
    digest: Digest
    lost: bool = False

    def asked(self, kind: str) -> AskedTarget:
        """It as a target of one of ``KINDS``."""
        if kind == "time":
            return AskedTarget(RecoveryTarget("time", self.time, True))
        if kind == "lsn":
            return target.at_lsn(str(self.lsn), inclusive=True)
        if kind == "xid":
            return target.at_xid(str(self.xid), inclusive=True)
        return target.at_name(self.name)


def record_moment(server: PgServer, name: str) -> Moment:
    """Mark the present moment of a server on which nothing else happens."""
    xid = int(server.psql(f"INSERT INTO marks VALUES ('{name}') RETURNING xmin::text"))
    stamp = server.psql(
        f"SELECT to_char(pg_xact_commit_timestamp('{xid}') AT TIME ZONE 'UTC', "
        "'YYYY-MM-DD HH24:MI:SS.US') || '+00:00'"
    )
    lsn = server.psql("SELECT pg_current_wal_insert_lsn()")
    server.psql(f"SELECT pg_create_restore_point('{name}')")
    timeline = int(server.psql("SELECT pg_walfile_name(pg_current_wal_lsn())")[:8], 16)
    digest = cluster_digest(server)
    return Moment(name, timeline, datetime.fromisoformat(stamp), Lsn.parse(lsn), xid, digest)
