"""Logical dumps: making them, giving them back, checking them and letting them go.

A *dump* is one folder in the repository: the globals, settings and access files of a cluster, each
of its databases as pg_dump writes it, and the *contents*, which make it one. A *part* is an object
of a file's bytes. What could not be read is *missing*, and said to be; the rest is dumped.

Everything here is a plain operation: it takes a repository, how the server is reached, options and
a listener, and may be called by the command line, by a resident process or by another program.
"""
