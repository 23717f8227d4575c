"""What touches the world: the API of Kubernetes, time, threads, processes. Thin; decisions are in ``reconcile``."""
