"""One module for each command: ``EXAMPLES``, ``add_arguments(parser)``, ``run(context, args)``.

They are thin: they turn arguments into a request, call one operation, and render its report.
"""
