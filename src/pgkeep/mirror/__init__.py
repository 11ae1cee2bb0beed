"""Several repositories that keep the same cluster: making one like the others.

All have one identity and the same keys, so that what is copied is bytes, and needs no secret. A
*member* is one of them by its name; the *target* of a copy is the one that lacks something, its
*sources* are the others. What counts in one repository alone (pins, voids, the lease, what an
administrator marked) is never copied: each has its own.
"""
