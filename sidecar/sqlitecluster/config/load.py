"""Reading a node's configuration from YAML, strictly.

Called by the command line before anything is started. Every mistake is a ConfigError
that names the file, the key and what would be right; an unknown key names the nearest
known one. Keys are the camelCase forms of the fields of ``model``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Final, get_type_hints
from urllib.parse import urlsplit

from sqlitecluster.config.model import NodeConfig
from sqlitecluster.config.runtime import runtime_dir
from sqlitecluster.errors import ConfigError

BYTES_MAX: Final = 1 << 20  # a configuration is a few hundred bytes; more is some other file
_SIZE_UNITS: Final = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
_TIME_UNITS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "role": ("primary", "replica"),
    "replicaWrites": ("Busy", "ReadOnly"),
    "otherFiles": ("Local", "Refuse"),
    "deletePolicy": ("Trash", "Refuse"),
    "verify": ("Background", "EveryTransaction", "Off"),
    "logLevel": ("debug", "info", "warning", "error"),
    "logFormat": ("text", "json"),
}
_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Key:
    """One legal key: where it stands, and the field it sets."""

    path: str  # "listen.peers"
    field: str
    hint: Any


def load(path: Path) -> NodeConfig:
    """The configuration in a file.

    Relative paths in it are relative to the file's folder.

    Raises:
        ConfigError: the file cannot be read, or is not legal; the message says what to change.
    """
    import yaml

    try:
        raw = path.read_bytes()[: BYTES_MAX + 1]
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if len(raw) > BYTES_MAX:
        raise ConfigError(f"{path} is larger than {BYTES_MAX} bytes; this is no configuration file")
    try:
        document = yaml.safe_load(raw)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not legal YAML: {_one_line(error)}") from error
    try:
        return parse(document, base=path.resolve().parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}") from error


def parse(document: object, *, base: Path) -> NodeConfig:
    """The configuration in an already decoded YAML document."""
    if not isinstance(document, Mapping):
        raise ConfigError("expected `key: value` lines, such as `name: n1`")
    values = _section(NodeConfig, document, prefix="", base=base)
    for key in ("name", "dataDir", "mountDir"):
        if _snake(key) not in values:
            raise ConfigError(f"{key} is missing")
    config = NodeConfig(**values)
    _check_together(config)
    return replace(config, runtime_dir=runtime_dir(config))


def keys(kind: type = NodeConfig, prefix: str = "") -> Iterator[Key]:
    """All legal keys, in the order of the model; a section comes before its keys."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        hint = hints[field.name]
        key = Key(prefix + camel(field.name), field.name, hint)
        yield key
        if is_dataclass(hint) and isinstance(hint, type):
            yield from keys(hint, key.path + ".")


def camel(field: str) -> str:
    """``data_dir`` → ``dataDir``; units stay at the end: ``age_s`` → ``ageS``."""
    first, *rest = field.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _snake(key: str) -> str:
    return re.sub(r"[A-Z]", lambda match: "_" + match.group().lower(), key)


def _section(kind: type, document: Mapping[object, object], *, prefix: str, base: Path) -> dict[str, Any]:
    known = {camel(field.name): field.name for field in fields(kind)}
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in document.items():
        if key not in known:
            raise ConfigError(_unknown(prefix, str(key), list(known)))
        field = known[str(key)]
        hint = hints[field]
        if is_dataclass(hint) and isinstance(hint, type):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{prefix}{key}: expected `key: value` lines below it")
            values[field] = hint(**_section(hint, value, prefix=f"{prefix}{key}.", base=base))
        else:
            values[field] = _value(f"{prefix}{key}", field, hint, value, base)
    return values


def _unknown(prefix: str, key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    lower = {name.lower(): name for name in known}
    guess = lower.get(key.lower().replace("_", "").replace("-", "")) or (near[0] if near else None)
    if guess:
        return f"unknown key {prefix}{key}; did you mean {prefix}{guess}?"
    return f"unknown key {prefix}{key}; known are {', '.join(prefix + name for name in known)}"


def _value(key: str, field: str, hint: Any, value: object, base: Path) -> Any:
    if key in _CHOICES:
        return _choice(key, value)
    if hint is bool:
        return _require(key, value, bool, "true or false")
    if hint in (Path, Path | None):
        return _path(key, value, base)
    if hint is float:
        return _quantity(key, value, _TIME_UNITS, "a time such as 20, 20s or 10m")
    if hint is int:
        return int(_quantity(key, value, _SIZE_UNITS, "a size such as 67108864, 64Mi or 4Gi"))
    text = _require(key, value, str, "a text")
    check = _TEXT_CHECKS.get(key.rpartition(".")[0] or key)
    if check is not None:
        check(key, text)
    return text


def _require(key: str, value: object, kind: type, expected: str) -> Any:
    if not isinstance(value, kind):
        raise ConfigError(f"{key}: expected {expected}, not {value!r}")
    return value


def _choice(key: str, value: object) -> str:
    choices = _CHOICES[key]
    if value is False and "Off" in choices:  # YAML 1.1 reads a bare Off as false
        return "Off"
    if value not in choices:
        raise ConfigError(f"{key}: {value!r} is none of {', '.join(choices)}")
    return str(value)


def _path(key: str, value: object, base: Path) -> Path:
    text: str = _require(key, value, str, "a path")
    if not text or "\0" in text:
        raise ConfigError(f"{key}: expected a path, not {value!r}")
    path = base / text
    return path.parent.resolve() / path.name  # the last part is not followed: it may be a dead mount


def _quantity(key: str, value: object, units: Mapping[str, float], expected: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)", str(value))
    if isinstance(value, bool) or match is None or match[2] not in units:
        raise ConfigError(f"{key}: expected {expected}, not {value!r}")
    return float(match[1]) * units[match[2]]


def _check_name(key: str, text: str) -> None:
    if not _NAME.fullmatch(text):
        raise ConfigError(f"{key}: {text!r} is no node name: letters, digits, '.', '_' and '-', at most 253")


def _check_address(key: str, text: str) -> None:
    host, colon, port = text.rpartition(":")
    if text and not (colon and host and port.isdecimal() and 0 < int(port) < 65536):
        raise ConfigError(f"{key}: {text!r} is no address such as 0.0.0.0:20202 or [::]:20202; '' switches it off")


def _check_url(key: str, text: str) -> None:
    try:
        url = urlsplit(text)
        legal = url.scheme in ("http", "https") and bool(url.hostname) and url.path in ("", "/") and url.port != 0
    except ValueError:
        legal = False
    if text and not legal:
        raise ConfigError(f"{key}: {text!r} is no URL such as http://host:20202")


_TEXT_CHECKS: Final[dict[str, Callable[[str, str], None]]] = {
    "name": _check_name,
    "listen": _check_address,
    "primaryUrl": _check_url,
}


def _check_together(config: NodeConfig) -> None:
    """Rules that concern more than one key."""
    if config.role == "replica" and not config.primary_url:
        raise ConfigError("primaryUrl is missing: a replica needs the address of its primary, http://host:20202")
    data, mount = config.data_dir, config.mount_dir
    if data == mount:
        raise ConfigError(
            f"dataDir and mountDir are the same folder, {data}; programs use mountDir, only nodes dataDir"
        )
    if mount.is_relative_to(data):
        raise ConfigError(f"mountDir {mount} lies in dataDir {data}; put them beside each other")
    if data.is_relative_to(mount):
        raise ConfigError(f"dataDir {data} lies in mountDir {mount}; the mount would hide it")
    addresses = [text for text in (config.listen.peers, config.listen.metrics, config.listen.api) if text]
    for address in addresses:
        if addresses.count(address) > 1:
            raise ConfigError(f"listen: {address} is used twice; each listener needs an address of its own")
    for key, value in (("parkS", config.park_s), ("retention.intervalS", config.retention.interval_s)):
        if value <= 0:
            raise ConfigError(f"{key}: must be more than 0")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
