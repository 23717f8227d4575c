"""Where the Kubernetes API is, and this pod's right to use it.

Rules:
    1. The token is read from disk again at most a minute later, and at once after a 401:
       kubelet replaces bound tokens long before they end.
    2. Without a folder there is no token and no TLS: an API of a test.
"""

from __future__ import annotations

import os
import ssl
import time
from pathlib import Path
from typing import Final

from sqlitecluster.errors import ConfigError
from sqlitecluster.tokens import read_token

_TOKEN_AGE_S: Final = 60.0


class Credentials:
    """Base URL, certificate authority and token."""

    def __init__(self, base_url: str, folder: Path | None) -> None:
        self.base_url = base_url.rstrip("/")
        self._folder = folder
        self._token = ""
        self._read_at = -_TOKEN_AGE_S

    @classmethod
    def find(cls, api_server: str, folder: Path) -> Credentials:
        """The configured API server, or the one that the pod's environment names.

        Raises:
            ConfigError: neither is there.
        """
        has_token = (folder / "token").exists()
        if api_server:
            return cls(api_server, folder if has_token else None)
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise ConfigError("election.apiServer is missing, and KUBERNETES_SERVICE_HOST is not set: not in a pod?")
        if not has_token:
            raise ConfigError(f"election.credentialsDir: there is no {folder / 'token'}")
        return cls(f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}", folder)

    def ssl(self) -> ssl.SSLContext | bool:
        """For aiohttp: a context that trusts the cluster's CA, or its default."""
        if not self.base_url.startswith("https:") or self._folder is None:
            return True
        ca = self._folder / "ca.crt"
        return ssl.create_default_context(cafile=str(ca) if ca.exists() else None)

    def token(self) -> str:
        """The pod's token; empty without one."""
        now = time.monotonic()
        if self._folder is not None and now - self._read_at >= _TOKEN_AGE_S:
            try:
                self._token, self._read_at = read_token(self._folder / "token").decode().strip(), now
            except (OSError, UnicodeDecodeError):
                return self._token
        return self._token

    def refused(self) -> None:
        """The token was not accepted: read it again."""
        self._read_at = -_TOKEN_AGE_S
