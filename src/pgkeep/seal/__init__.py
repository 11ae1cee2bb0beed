"""Compression and encryption of frames and of whole objects.

*Frame*: the unit that is compressed, sealed and read. *Envelope*: a whole binary object, made of
a header, frames and a trailer (``docs/format.md``, section 3). *Keyring*: the public keys of a
repository and whichever secrets this host holds. *Identity*: what a user keeps to open it all.

Nothing is imported here, because ``wal-push`` starts through this package.
"""
