"""Everything at random, for as long as one likes: changes, backups, kills, failovers, restores.

    make test ARGS="tests/soak"                                  some seconds, always the same
    python -m tests.soak --seconds 7200                          hours, with a new seed
    python -m tests.soak --seed 4711 --steps 83 --major 18       what failed, again

What is done follows from the seed alone, however long it takes. What is done *while* a backup is
made, or how far a killed one came, is a matter of time and may differ.
"""
