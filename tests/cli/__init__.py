"""The command line, mostly as a user meets it: the program is started, its exit code and words read."""
