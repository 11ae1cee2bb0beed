"""What is kept and what goes: expiry by policy, deletion by hand, holds, and the sweep.

A backup goes in two steps. It is put into the trash, where it counts no more and nothing is lost;
its manifests are deleted when a grace time is over. Packs are another matter: they are shared, so a
sweep deletes those that nobody names any more, an hour or more after it has said which. WAL goes
when neither the window nor a backup needs it.

How old something is, the store's clock says; to which day a backup belongs, its recorded end.
"""
