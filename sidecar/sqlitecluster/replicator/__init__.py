"""The replicator process: capture, apply, streams, HTTP, metrics."""
