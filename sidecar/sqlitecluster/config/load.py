"""Reading a node's configuration from YAML, strictly.

Called by the command line before anything is started. Every mistake is a ConfigError
that names the file, the key and what would be right; an unknown key names the nearest
known one. Keys are the camelCase forms of the fields of ``model``. ``${NAME}`` in a text
value is replaced by that variable of the environment; an unset one is a mistake too.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, TypeVar, get_type_hints
from urllib.parse import urlsplit

from sqlitecluster.config.model import Election, Identity, NodeConfig, section_of
from sqlitecluster.config.runtime import runtime_dir
from sqlitecluster.errors import ConfigError

T = TypeVar("T")

BYTES_MAX: Final = 1 << 20  # a configuration is a few hundred bytes; more is some other file
_SIZE_UNITS: Final = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
_TIME_UNITS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "role": ("primary", "replica", "elected"),
    "runOn": ("All", "Primary"),
    "replicaWrites": ("Busy", "ReadOnly"),
    "replication.mode": ("Async", "Quorum"),
    "replication.durability": ("Required", "Preferred"),
    "replication.localDurability": ("SQLite", "Always"),
    "election.apiOutagePolicy": ("Fence", "HoldIfPeersAgree"),
    "otherFiles": ("Local", "Refuse"),
    "compression": ("LZ4", "None"),
    "deletePolicy": ("Trash", "Refuse"),
    "verify": ("Background", "EveryTransaction", "Off"),
    "logLevel": ("debug", "info", "warning", "error"),
    "logFormat": ("text", "json"),
}
_MS_UNITS: Final = {"": 1.0, "ms": 1.0, "s": 1000.0}
_PLAIN: Final = {"": 1.0}
_ACRONYMS: Final = {"pod_uid": "podUID", "operator_url": "operatorURL"}
_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
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
    config = _section(NodeConfig, document, prefix="", base=base)
    _check_together(config)
    return replace(config, runtime_dir=runtime_dir(config))


def keys(kind: type = NodeConfig, prefix: str = "") -> Iterator[Key]:
    """All legal keys, in the order of the model; a section comes before its keys."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        hint = hints[field.name]
        key = Key(prefix + camel(field.name), field.name, hint)
        yield key
        section = section_of(hint)
        if section is not None:
            yield from keys(section, key.path + ".")


def camel(field: str) -> str:
    """``data_dir`` → ``dataDir``; units stay at the end: ``age_s`` → ``ageS``."""
    first, *rest = field.split("_")
    if field in _ACRONYMS:
        return _ACRONYMS[field]
    return first + "".join(part.capitalize() for part in rest)


def _section(kind: type[T], document: Mapping[object, object], *, prefix: str, base: Path) -> T:
    known = {camel(field.name): field.name for field in fields(kind)}  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in document.items():
        if key not in known:
            raise ConfigError(_unknown(prefix, str(key), list(known)))
        field = known[str(key)]
        hint = hints[field]
        section = section_of(hint)
        if section is not None:
            if not isinstance(value, Mapping):
                raise ConfigError(f"{prefix}{key}: expected `key: value` lines below it")
            values[field] = _section(section, value, prefix=f"{prefix}{key}.", base=base)
        else:
            values[field] = _value(f"{prefix}{key}", hint, _expanded(f"{prefix}{key}", value), base)
    for item in fields(kind):  # type: ignore[arg-type]
        if item.default is item.default_factory is MISSING and item.name not in values:
            raise ConfigError(f"{prefix}{camel(item.name)} is missing")
    return kind(**values)


def _expanded(key: str, value: object) -> object:
    """A text with ``${NAME}`` replaced from the environment."""

    def look_up(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if found is None:
            raise ConfigError(f"{key}: the environment has no variable {match[1]}")
        return found

    return _VARIABLE.sub(look_up, value) if isinstance(value, str) else value


def _unknown(prefix: str, key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    lower = {name.lower(): name for name in known}
    guess = lower.get(key.lower().replace("_", "").replace("-", "")) or (near[0] if near else None)
    if guess:
        return f"unknown key {prefix}{key}; did you mean {prefix}{guess}?"
    return f"unknown key {prefix}{key}; known are {', '.join(prefix + name for name in known)}"


def _value(key: str, hint: Any, value: object, base: Path) -> Any:
    if key in _CHOICES:
        return _choice(key, value)
    if hint is bool:
        return _require(key, value, bool, "true or false")
    if hint in (Path, Path | None):
        return _path(key, value, base)
    if hint is float:
        return _quantity(key, value, _TIME_UNITS, "a time such as 20, 20s or 10m")
    if hint is int and key.endswith("Ms"):
        return int(_quantity(key, value, _MS_UNITS, "a time such as 500, 500ms or 1s"))
    if hint is int and (key.startswith("runAs.") or key in ("replication.acks", "replication.checkpointPages")):
        return int(_quantity(key, value, _PLAIN, "a number such as 1 or 65532"))
    if hint is int:
        return int(_quantity(key, value, _SIZE_UNITS, "a size such as 67108864, 64Mi or 4Gi"))
    text = _require(key, value, str, "a text")
    check = _TEXT_CHECKS.get(key) or _TEXT_CHECKS.get(key.rpartition(".")[0])
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


def _check_cluster(key: str, text: str) -> None:
    namespace, slash, name = text.partition("/")
    if text and not (slash and _NAME.fullmatch(namespace) and _NAME.fullmatch(name)):
        raise ConfigError(f"{key}: {text!r} is no cluster such as default/notes")


_TEXT_CHECKS: Final[dict[str, Callable[[str, str], None]]] = {
    "name": _check_name,
    "listen": _check_address,
    "primaryUrl": _check_url,
    "election.cluster": _check_name,
    "election.namespace": _check_name,
    "election.podUID": _check_name,
    "election.apiServer": _check_url,
    "identity.operatorURL": _check_url,
    "identity.cluster": _check_cluster,
}


def _check_together(config: NodeConfig) -> None:
    """Rules that concern more than one key."""
    if config.role == "replica" and not config.primary_url:
        raise ConfigError("primaryUrl is missing: a replica needs the address of its primary, http://host:20202")
    if config.role != "elected" and config.election is not None:
        raise ConfigError(f"election: a node of role {config.role} is not elected; use role: elected")
    if config.election is not None:
        _check_election(config.election)
    if config.identity is not None:
        _check_identity(config, config.identity)
    _check_folders(config.data_dir, config.mount_dir)
    addresses = [text for text in (config.listen.peers, config.listen.metrics, config.listen.api) if text]
    for address in addresses:
        if addresses.count(address) > 1:
            raise ConfigError(f"listen: {address} is used twice; each listener needs an address of its own")
    times = (
        ("parkS", config.park_s),
        ("retention.intervalS", config.retention.interval_s),
        ("replication.ackTimeoutS", config.replication.ack_timeout_s),
        ("replication.acks", config.replication.acks),
        ("replication.checkpointPages", config.replication.checkpoint_pages),
        ("verifyIntervalS", config.verify_interval_s),
        ("scrubIntervalS", config.scrub_interval_s),
    )
    for key, value in times:
        if value <= 0:
            raise ConfigError(f"{key}: must be more than 0")


def _check_election(election: Election) -> None:
    """Times that leave room for a request to be tried again, and for a slow clock."""
    times = election.lease
    if not times.duration_s > times.renew_deadline_s + times.margin_ms / 1000:
        raise ConfigError("election.lease.durationS: must be more than renewDeadlineS and marginMs together")
    if not times.renew_deadline_s > 1.2 * times.retry_period_s > 0:
        raise ConfigError(
            "election.lease.renewDeadlineS: must be more than 1.2 times retryPeriodS, which is more than 0"
        )


def _check_identity(config: NodeConfig, identity: Identity) -> None:
    """Who signs for which cluster must be known; a node with certificates talks to nobody in the clear."""
    if identity.cert_file is None and identity.key_file is not None:
        raise ConfigError("identity.certFile: is missing; keyFile is the key of a certificate")
    if identity.cert_file is None and config.election is None and not identity.cluster:
        raise ConfigError("identity.cluster: is missing; say namespace/name, or use certFile")
    if config.primary_url.startswith("http:"):
        raise ConfigError(f"primaryUrl: {config.primary_url!r} must begin with https: as there is an identity")


def _check_folders(data: Path, mount: Path) -> None:
    if data == mount:
        raise ConfigError(
            f"dataDir and mountDir are the same folder, {data}; programs use mountDir, only nodes dataDir"
        )
    if mount.is_relative_to(data):
        raise ConfigError(f"mountDir {mount} lies in dataDir {data}; put them beside each other")
    if data.is_relative_to(mount):
        raise ConfigError(f"dataDir {data} lies in mountDir {mount}; the mount would hide it")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
