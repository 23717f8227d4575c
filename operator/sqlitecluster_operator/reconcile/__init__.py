"""What has to be done for a cluster: pure decisions over observed values. No I/O, no clock, no kopf."""
