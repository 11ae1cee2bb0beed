"""All knowledge of PostgreSQL, and none of a repository.

The parsers (LSNs, WAL names, segment headers, timeline histories, pg_control, backup labels,
relation paths, configuration text) are pure: bytes in, values out, no clock and no file. Two
kinds of module touch the world: ``connection``, ``facts``, ``privileges`` and
``backup_session`` speak with a server, ``datadir`` reads a data directory. Every format names
the PostgreSQL source file that defines it.

Nothing is re-exported here: ``pgkeep wal-push`` starts in a fraction of a second only because
it imports the two or three small modules that it needs, and not this whole package.
"""
