"""Making a base backup: read a data directory once, in parallel, and store what was read.

*Source*: the data directory as it was walked. *Run*: up to 1 MiB of one file, read, checked,
hashed and
packed while it is in the cache. *Proof*: WAL that is seen in the repository, before the copy and
after.
"""
