"""The command line, mostly as a user meets it: the program is run, its exit code and words read."""
