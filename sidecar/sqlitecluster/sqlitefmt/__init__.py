"""SQLite's own file formats, byte for byte. Pure: bytes in, values out.

    dbheader   DatabaseHeader, looks_like_database     the first 100 bytes of a database
    wal        WALHeader, FrameHeader, scan, build_frames
    walsum     the WAL's checksum, fast
    walindex   IndexHeader, CheckpointInfo, HashBlock, find_frame   (-shm)
    journal    JournalHeader, is_hot                   the rollback journal
    lockbytes  which byte is which lock

Each module's docstring gives its signatures. Nothing is re-exported: import the module.
"""
