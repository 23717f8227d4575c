"""What carries the bytes of a request: a view of the receive buffer, or a copy of it."""

from __future__ import annotations

Data = bytes | memoryview
