"""SQLiteCluster: a plain SQLite file, on several machines."""

__version__ = "0.1.0"
