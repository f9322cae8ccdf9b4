"""The pictures in docs/: what they were made of, so that a stale one is noticed without making it anew.

`docs/pictures.json` has two digests for each: of its file, and of the data that it shows. Of a module that is
what it says, whatever its comments, docstrings and layout are.
"""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path

__all__ = ["RECORD", "SHOWS", "data_digest", "file_digest", "keep", "recorded"]

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "docs" / "pictures.json"

_DEMO = ("experiments/rand-health.toml", "experiments/data/layout.py", "experiments/demo/demo.py")
SHOWS: Mapping[str, tuple[str, ...]] = {
    "story.png": _DEMO,
    "passport.png": (*_DEMO, "server/registry/passport.py"),
    "federation.png": ("tests/e2e/filled_state.py", "server/api/page.py", "server/api/page.css"),
}
"""What each picture shows: experiment and rows of the demo, the made-up state, the pages."""


def data_digest(sources: tuple[str, ...], root: Path = ROOT) -> str:
    """SHA-256 of the data that a picture shows."""
    return hashlib.sha256("\n".join(_content(root / name) for name in sources).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def recorded() -> dict[str, dict[str, str]]:
    """What is recorded of each picture."""
    found: dict[str, dict[str, str]] = json.loads(RECORD.read_text(encoding="utf-8"))
    return found


def keep(picture: Path, folder: Path, name: str) -> None:
    """Lay a picture that was just made into the folder of the pages, and record what it shows."""
    if picture != folder / name:
        shutil.copy(picture, folder / name)
    record = folder / RECORD.name
    known = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    known[name] = {"picture": file_digest(folder / name), "data": data_digest(SHOWS[name])}
    record.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _content(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".toml":
        return json.dumps(tomllib.loads(text), sort_keys=True, default=str)
    return ast.dump(_without_docstrings(ast.parse(text))) if path.suffix == ".py" else text


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = [one for one in node.body if not _is_text(one)] or [ast.Pass()]
    return tree


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
