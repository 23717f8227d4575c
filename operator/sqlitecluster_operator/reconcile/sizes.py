"""Comparing Kubernetes quantities. Pure."""

from __future__ import annotations

from sqlitecluster_operator.api import quantity_value


def larger(one: str, other: str) -> bool:
    """Whether a quantity is more than another; what cannot be read is not larger."""
    try:
        return quantity_value(one) > quantity_value(other)
    except ValueError:
        return False
