"""NodeConfig as JSON and back, for handing it from process to process.

Both sides run the same version; strictness towards users is ``load``'s business.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from sqlitecluster.config.model import NodeConfig, section_of

T = TypeVar("T")


def config_to_json(config: NodeConfig) -> str:
    """All values, also the defaults."""
    return json.dumps(asdict(config), default=str)


def config_from_json(text: str) -> NodeConfig:
    """The values that ``config_to_json`` wrote."""
    return _build(NodeConfig, json.loads(text))


def _build(kind: type[T], values: dict[str, Any]) -> T:
    hints = get_type_hints(kind)
    arguments: dict[str, Any] = {}
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name in values:
            arguments[field.name] = _value(hints[field.name], values[field.name])
    return kind(**arguments)


def _value(hint: Any, value: Any) -> Any:
    section = section_of(hint)
    if section is not None and value is not None:
        return _build(section, value)
    if hint in (Path, Path | None) and value is not None:
        return Path(value)
    return value
