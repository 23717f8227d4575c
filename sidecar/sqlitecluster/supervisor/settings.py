"""The few values of the configuration that the supervisor itself uses."""

from __future__ import annotations

import json


class Settings:
    """Read from the JSON that the command line made; see ``config.model`` for the meanings."""

    def __init__(self, config_json: str) -> None:
        values = json.loads(config_json)  # validated by whoever wrote it
        self.name: str = values["name"]
        self.data_dir: str = values["data_dir"]
        self.mount_dir: str = values["mount_dir"]
        self.runtime_dir: str = values["runtime_dir"]
        election = values["election"] if values["role"] == "elected" else None
        self.switchover_s: float | None = election["switchover_timeout_s"] if election else None
        self.resend: bool = values["resend"]
        self.allow_other: bool = values["allow_other"]
        self.stack_mounts: bool = values["stack_mounts"]
        identity = values["identity"]
        places = [election["credentials_dir"] if election else "", identity["directory"] if identity else ""]
        self.token_dirs = tuple(place for place in places if place)
        run_as = values["run_as"]  # null: workers are who the supervisor is
        self.run_as: tuple[int, int] | None = (run_as["uid"], run_as["gid"]) if run_as else None
        self.log_level: str = values["log_level"]
        self.log_format: str = values["log_format"]
