"""What one node keeps on its disk: log, LTX files, page checksums, positions.

Outside this package only ``node.NodeStore`` and ``database.DatabaseStore`` are opened
by others; ``recovery.prepare_node`` runs before a node mounts, the rest are parts.

    record, logscan, log     the node-wide append log: format, reading, writing
    tail                     what was appended and is not yet (or still) needed from memory
    ltxdir, merge, cutter    LTX files: their folder, joining transactions, cutting the log
    compaction, retention    fewer and fewer files as they age
    words, state, checksums  small mapped files of one database
    housekeeper              the thread that syncs, cuts, compacts and removes
    snapshot, verifier       reading an image that programs are writing
    image, recovery          database files at the start of a node
    spool, trash, lostfound, reserve, disk   files handed over, kept aside, and room for them
"""
