"""What can go wrong with the local cluster; the text is meant for people."""

from __future__ import annotations


class ClusterError(Exception):
    """The cluster could not do what was asked; the message says why and what helps."""
