"""The Kubernetes operator of SQLiteCluster."""
