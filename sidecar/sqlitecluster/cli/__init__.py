"""The command line: ``sqlitecluster``.

Rules:
    1. A module here adds its commands in ``register(subparsers)`` and imports what is
       heavy only when a command runs, so that ``--help`` and ``node`` start at once.
    2. A command is a function from parsed arguments to an exit code. Deliberate errors
       travel up to ``main``, which prints them with their code.
"""
