"""docs/configuration.md lists exactly the keys and the defaults that the code has."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_type_hints

from sqlitecluster.config.load import camel, keys
from sqlitecluster.config.model import NodeConfig, section_of

PAGE = Path(__file__).resolve().parents[3] / "docs" / "configuration.md"
ROW = re.compile(r"^\| `([A-Za-z.]+)` \|([^|]*)\|", re.MULTILINE)
SAID_IN_WORDS = {"runtimeDir", "primaryUrl", "primaryName"}
EMPTY = ("", None)


def defaults(kind: Any = NodeConfig, prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    hints = get_type_hints(kind)
    for field in fields(kind):
        key = prefix + camel(field.name)
        found[key] = field.default
        section = section_of(hints[field.name])
        if section is not None:
            found |= defaults(section, key + ".")
    return found


def shown(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


def test_every_key_is_documented_and_no_other() -> None:
    documented = [row[0] for row in ROW.findall(PAGE.read_text())]

    assert sorted(documented) == sorted(key.path for key in keys())


def test_the_documented_defaults_are_the_real_ones() -> None:
    real = defaults()
    for key, text in ROW.findall(PAGE.read_text()):
        default = real[key]
        if default is MISSING:
            assert text.strip() in ("", "required"), key
        elif default in EMPTY and key not in SAID_IN_WORDS:
            assert text.strip() == "none", key
        elif key not in SAID_IN_WORDS:
            assert text.strip() == f"`{shown(default)}`", key
