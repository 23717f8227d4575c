"""The command line: ``sqlitecluster``.

Rules:
    1. A module here adds its commands in ``register(subparsers)``. ``node`` and
       ``local`` import what is heavy only when they run: a node must start at once.
    2. A command is a function from parsed arguments to an exit code. Deliberate errors
       travel up to ``main``, which prints them with their code.
"""
