"""The few values of the configuration that the supervisor itself uses."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Read from the JSON that the command line made; see ``config.model`` for the meanings."""

    name: str
    data_dir: str
    mount_dir: str
    runtime_dir: str
    resend: bool
    allow_other: bool
    log_level: str
    log_format: str

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """Take what is needed; the text was validated before."""
        values = json.loads(text)
        return cls(**{name: values[name] for name in cls.__slots__})
