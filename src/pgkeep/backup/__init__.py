"""Making a base backup: read a data directory once, in parallel, and store what was read.

The words of this package are *source* (the data directory as it was walked), *run* (up to 1 MiB
of one file, read, checked, hashed and packed while it is in the cache) and *proof* (WAL that is
seen in the repository, while the copy begins and after it).
"""
