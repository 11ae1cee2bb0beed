"""What stands behind ``make``: an environment on demand, from a bare python3.

``pythons`` finds a Python that the servers' user can execute, ``place`` a directory for the
environment, ``installers`` knows the ways to make one, ``environment`` ties them together.
Only the standard library is used, and nothing newer than Python 3.11.
"""
