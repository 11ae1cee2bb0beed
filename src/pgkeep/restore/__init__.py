"""Bringing a cluster back: into an empty directory, as it was at any moment.

*Target*: where recovery is to end, as the user asked. *Plan*: what a restore will do, found out
before anything is written: the backup, the timeline (always a number), the WAL that is needed and
there, and the target as it will be written. *Landing*: writing the files. *Unit*: what one worker
does of that in one go. *Region*: the stretch of a file that is put together in memory, and then
written. *Copy*: a restored cluster that archives nothing and disturbs nobody, which it is unless
the user says that it takes the original's place.
"""
