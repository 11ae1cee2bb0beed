"""Getting ready: a repository, this host's part in it, and what the server needs.

*Init* makes a repository or joins one, and registers the cluster's system identifier. *Probe*: what
the store really does, tried out with one small object. *Recovery sheet*: what a person keeps
on paper to get the data back. *Plan* (of ``setup``): the changes that a server still needs,
as values that can be printed, and applied.
"""
