"""The benchmark: pgkeep beside pgBackRest and pg_basebackup, in one run on one machine.

``python -m bench`` makes a database, then runs every *case* (one command that backs up or
restores it) in interleaved *rounds*, A B C A B C, so that whatever else the machine does hits
all of them alike. What is reported is the median of the rounds, with the smallest and the
largest beside it. The *raw limit* and the *restore floor* are the same work done by two bare
threads in the same rounds; they say how much a program adds to what the hardware needs.

The runner uses the standard library alone and stays small, because a process that starts
another one leaves its own memory in the child's peak figure.
"""
