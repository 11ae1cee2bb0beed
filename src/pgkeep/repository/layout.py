"""Where each object lies (format, section 1): the only place that spells keys."""

from __future__ import annotations

import re

from pgkeep.errors import ConfigError

IDENTITY = "pgkeep/repository"
KEYS = "pgkeep/keys/"
README = "pgkeep/README.txt"
OWN = "pgkeep/"
PROBES = "pgkeep/probe/"
RESCUE = "pgkeep/rescue"

_CLUSTER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
NUMBER_DIGITS = 8
TAIL_DIGITS = 20


def check_cluster_name(name: str) -> str:
    """Return the name, or raise ``ConfigError`` when it cannot be part of a key."""
    if not _CLUSTER.fullmatch(name) or name == "pgkeep":
        raise ConfigError(
            f"{name!r} cannot be a cluster name.",
            remedy="Use letters, digits, dots, underscores and hyphens, at most 63, "
            "beginning with a letter or digit.",
        )
    return name


def numbered(prefix: str, number: int, *, digits: int = NUMBER_DIGITS) -> str:
    """The key of a numbered object: ``prefix`` ends with a slash."""
    return f"{prefix}{number:0{digits}d}"


def systems(cluster: str) -> str:
    """Prefix of the records that name a cluster's system identifiers."""
    return f"{cluster}/systems/"


class Layout:
    """The keys of one cluster under one system identifier."""

    def __init__(self, cluster: str, system_identifier: int) -> None:
        self.cluster = check_cluster_name(cluster)
        self.system_identifier = system_identifier
        self.root = f"{cluster}/{system_identifier}/"
        self.manifests = self.root + "manifests/"
        self.manifest_copies = self.root + "manifests-copy/"
        self.voids = self.root + "voids/"
        self.packs = self.root + "packs/"
        self.pins = self.root + "pins/"
        self.partials = self.root + "partials/"
        self.wal = self.root + "wal/"
        self.history = self.root + "history/"
        self.tails = self.root + "tails/"
        self.tail_boundaries = self.root + "tail-boundary/"
        self.marks = self.root + "marks/"
        self.checks = self.root + "checks/"
        self.drills = self.root + "drills/"
        self.dumps = self.root + "dumps/"
        self.lease = self.root + "lease"

    def pack(self, attempt: str, number: int) -> str:
        return numbered(f"{self.packs}{attempt}/", number)

    def pin(self, attempt: str, number: int) -> str:
        return numbered(f"{self.pins}{attempt}/", number)

    def manifest(self, backup: str) -> str:
        return self.manifests + backup

    def manifest_copy(self, backup: str) -> str:
        return self.manifest_copies + backup

    def void(self, backup: str) -> str:
        return self.voids + backup

    def dump(self, name: str) -> str:
        """The folder of one dump."""
        return f"{self.dumps}{name}/"

    def wal_file(self, name: str) -> str:
        """Any file that PostgreSQL archives, by its plain name."""
        if name.endswith(".history"):
            return self.history + name
        return f"{self.wal}{name[:16]}/{name}"

    def wal_group(self, name: str) -> str:
        """The prefix under which a segment lies with its 255 or so neighbours."""
        return f"{self.wal}{name[:16]}/"

    def admin(self, kind: str) -> str:
        """The prefix of one kind: ``trash``, ``hold``, ``horizon`` or ``condemned``."""
        return f"{self.root}admin/{kind}/"
