"""The supervisor of one node: holds what must outlive the other processes, starts them, replaces them.

Rules:
    1. ``process`` and what it imports stay away from the other packages here, and from
       logging, dataclasses, typing and asyncio: this process only has to stay alive and
       be small. A test lists what it may import.
    2. No process that holds ``/dev/fuse`` may hold a file of the mount. Closing such a
       file asks the mount, and a process that is being killed while nobody answers
       would then keep the connection, and so itself, open for ever. Kept lock
       descriptors therefore live in the ``keeper`` process.
    3. The supervisor never looks a path up below its own mount point.
"""
