"""What a person sees: the commands, their options, and how results and errors are put.

One module in ``commands/`` for each command: it adds its arguments, calls one operation, and
renders what comes back. *Context* is what every command is handed: settings, output, log.
*Session* opens things from settings; it and ``Context`` are the only places that read the
environment. Nothing is imported here, because ``wal-push`` starts through this package.
"""
