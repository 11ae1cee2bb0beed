"""Every failure of a store, at every call of every command: what is said is so, what is listed
restores, and the next run works. No server is needed: one that answers as a quiet one would stands
in (``standin.py``), so that a command takes milliseconds and its calls are always the same."""
