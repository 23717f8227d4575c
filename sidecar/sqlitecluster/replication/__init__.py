"""Pure replication: positions, wire frames, stream decisions. No I/O."""
