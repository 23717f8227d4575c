"""Where a node keeps what must survive its processes but not a reboot."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sqlitecluster.config.model import NodeConfig


def runtime_dir(config: NodeConfig) -> Path:
    """The configured folder, or one in ``/dev/shm`` named after the data directory."""
    if config.runtime_dir is not None:
        return config.runtime_dir
    digest = hashlib.sha256(str(config.data_dir).encode()).hexdigest()
    return Path("/dev/shm") / f"sqlitecluster-{digest[:16]}"
