"""The repository format: what objects there are, what is in them, and what a listing means.

*Repository*: one URL, many clusters. *Cluster name*: the user's name for a cluster, which holds one
or more *system identifiers* over time. *Pack*, *frame*, *map*, *manifest*: see ``docs/format.md``,
which this package implements and which wins where the two disagree.

Nothing here knows of a running server, and nothing is imported here, because ``wal-push``
starts through this package.
"""
