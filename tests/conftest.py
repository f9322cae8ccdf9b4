"""Where the tests find the public data sets."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def data_dir(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """`data_dir(name)` is the data set's folder; the test is skipped, by its name, where there is none."""
    root = Path(os.environ.get("TIDEGATE_DATA_DIR") or ROOT.parent / "shared" / "data")

    def folder(name: str) -> Path:
        if not (root / name).is_dir():
            pytest.skip(f"data set '{name}' is not here")
        monkeypatch.setenv("TIDEGATE_DATA_DIR", str(root))
        return root / name

    return folder
