"""Deterministic simulation: three to five nodes in one process, virtual time, one seed.

Production code that runs here, as it is:

    election        ``Elector`` with hand-offs, members, acknowledgements; ``LeaseRecord``
    replication     ``decide``, ``lineage``, ``wire``, ``assembly``, ``quorum.AckTable``, ``committed.merged``
    replicator      ``Lane`` and ``SnapshotSender`` (what is sent), ``Stage`` (a received image), ``EpochFile``,
                    ``capture_group``, ``CapturedDatabase.publish``
    mount           ``waltrack.WalTracker`` (each write, and which one completes a commit), ``Context.is_fenced``
    store           log, chain, page checksums, LTX files, cutting, compaction, retention, lost+found, recovery
    ltx, sqlitefmt  every byte

A replica's limit of what it may show is kept in ``Pending`` here; production keeps it in the store's words.

Replaced: asyncio, HTTP and TLS (``streams``: bytes with delay, in order); threads (each of
their steps is an event); FUSE, locks, wal-index and the apply code of real databases
(``waldata``, ``replica``: a database file and a log of recorded commits; lanes ``kills``, ``elected``,
``nemesis`` and ``switching`` run the real ones); the glue of ``replicator.rolechange``, ``elected``,
``capture`` and the data path of Quorum (``primary``: the same order of steps); disks
(``disk``: tmpfs, a power cut takes what was not synced; names are durable at once); the API
server (``actions``: the double that ``tests/unit/election/test_contract.py`` compares with the real one).

    world       one run: programs, checks, the end        faults     what goes wrong
    node        clocks, disk, store, elector              network    links
    primary     programs write, commits are answered      replica    what arrives, and a start
    streams     one connection                            actions    the elector's hands
    waldata     the log that programs write               pagestream recorded commits of real SQLite
    content     what the database holds, as a tree        oracle     what must hold
    programs    real SQLite over ``memfiles``             kernel     time, chance, trace
"""
