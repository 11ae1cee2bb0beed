"""WAL in and out of a repository, one file at a time: ``wal-push`` and ``wal-fetch``.

*Push*: PostgreSQL hands over a file and may recycle it as soon as we exit with 0, so that exit code
is a promise about durable bytes. *Ahead*: files that the server will ask for next, pushed in
the same run. *Fetch*: recovery asks for a file and takes our exit code as the truth about the
whole archive, so "absent" is said only when it is positively so. *Plan*: the files that a
restore found in the repository before it began, whose absence is therefore never an end of
recovery. *Prefetch*: full segments fetched before recovery asks for them.

Nothing is imported here, because ``wal-push`` starts through this package.
"""
