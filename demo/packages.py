"""A real data set and two real programs: the machine's package list, sqlite-utils and Datasette."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

FIELDS = ("Package", "Version", "Section", "Installed-Size", "Architecture", "Maintainer")
COLUMNS = ("name", "version", "section", "kib", "architecture", "maintainer")
START_LIMIT_S = 60.0


def installed() -> list[dict[str, object]]:
    """The packages of this machine; of Python's environment where there is no dpkg."""
    form = "\\t".join(f"${{{field}}}" for field in FIELDS) + "\\t${binary:Summary}\\n"
    try:
        text = subprocess.run(["dpkg-query", "-W", "-f", form], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return _python_packages()
    rows = (line.split("\t") for line in text.splitlines())
    return [
        {**dict(zip(COLUMNS, row, strict=False)), "kib": int(row[3] or 0), "summary": row[-1]}
        for row in rows
        if len(row) == len(FIELDS) + 1
    ]


def _python_packages() -> list[dict[str, object]]:
    from importlib import metadata

    found = metadata.distributions()
    return [
        {"name": d.name, "version": d.version, "section": "python", "kib": 0, "summary": d.metadata["Summary"]}
        for d in found
    ]


def load(path: Path, rows: list[dict[str, object]]) -> None:
    """Load rows with the program ``sqlite-utils``, with full-text search, in WAL mode."""
    tool = [sys.executable, "-m", "sqlite_utils"]
    data = "\n".join(json.dumps(row) for row in rows)
    subprocess.run(
        [*tool, "insert", str(path), "packages", "-", "--nl", "--pk=name"], input=data, text=True, check=True
    )
    subprocess.run([*tool, "enable-wal", str(path)], check=True)
    subprocess.run([*tool, "enable-fts", str(path), "packages", "name", "summary", "--fts5"], check=True)
    views = ["create-table", str(path), "views", "id", "integer", "package", "text", "at", "float", "--pk=id"]
    subprocess.run([*tool, *views], check=True)


def serve(path: Path, port: int, log: Path) -> subprocess.Popen[bytes]:
    """Start Datasette on the replica's file."""
    command = [
        sys.executable,
        "-m",
        "datasette",
        "serve",
        str(path),
        "--port",
        str(port),
        "--setting",
        "default_page_size",
        "5",
    ]
    with log.open("ab") as out:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)


def wait_served(url: str, server: subprocess.Popen[bytes]) -> bool:
    """Wait until Datasette answers."""
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.2)
        else:
            return True
    return False


def fetch_json(url: str) -> Any:
    """One answer of Datasette's JSON API."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.loads(answer.read())


def fetch_page(url: str) -> list[str]:
    """One HTML page of Datasette, as the text that a person sees."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        page = answer.read().decode()
    body = re.sub(r"(?s)<(script|style).*?</\1>", " ", page)
    cells = [re.findall(r"(?s)<t[dh][^>]*>(.*?)</t[dh]>", row) for row in re.findall(r"(?s)<tr>(.*?)</tr>", body)]
    plain = [[_text(cell) for cell in row] for row in cells]
    return [" | ".join(cell[:28] for cell in row[:4]) for row in plain if len(row) > 3]


def _text(cell: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", cell))).strip(" \u25b2\u25bc")
