"""Makes the outputs of docs/tutorial.ipynb anew: runs its cells in a folder of their own, with a real kernel.

`scripts/tutorial.py` writes them into the notebook, with a digest of the cells that they are of: a test
refuses a notebook whose cells were changed since. With `--into FILE` the notebook is left as it is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["NOTEBOOK", "cells_digest", "execute", "shape"]

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
_SECONDS = 900
"""Of one cell."""
_CHANCE = re.compile(
    r"-?\d{8}-\d{6}-[0-9a-f]{4}|-?\d[\d.,]*(?: ± [\d.,]+)?|too noisy|█+|"
    r"data:image/png;base64,[\w+/=]+"
)
"""What noise and time make another one in each run: names of runs, numbers, bars and pictures."""
_CELLS = re.compile(r"<p>.*?</p>|(?<=>)[^<>]*(?=(?:</span>)?</td>)", re.DOTALL)
"""What stands in a table, and sentences below: noise decides which figures are told, and how many."""


def cells_digest(notebook: Any) -> str:
    """SHA-256 of the cells' sources, which the outputs are of."""
    sources = [[cell["cell_type"], "".join(cell["source"])] for cell in notebook["cells"]]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def shape(notebook: Any) -> list[str]:
    """What the outputs are, a line each, whatever noise and time made of them."""
    return [
        f"{number} {kind}: {_CHANCE.sub('#', _CELLS.sub('', text))}"
        for number, cell in enumerate(notebook["cells"])
        for output in cell.get("outputs", [])
        for kind, text in _texts(output)
    ]


def execute(notebook: Any, folder: Path) -> Any:
    """Run the cells in that folder, and give the notebook with their outputs.

    Raises:
        CellExecutionError: a cell ended in an error.
    """
    from nbclient import NotebookClient

    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    os.environ |= {"IPYTHONDIR": str(folder / "ipython"), "JUPYTER_RUNTIME_DIR": str(folder / "jupyter")}
    os.environ["XDG_CONFIG_HOME"] = str(folder / "config")  # no profile of whoever runs this
    place = folder / "notebook"
    place.mkdir()
    NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=_SECONDS,
        resources={"metadata": {"path": str(place)}},
    ).execute()
    for cell in notebook["cells"]:
        cell["metadata"].pop("execution", None)  # when it was run
        for output in cell.get("outputs", []):
            if "text/html" in output.get("data", {}):
                del output["data"]["text/plain"]  # the same again, and wider
    return notebook


def _texts(output: Any) -> Iterator[tuple[str, str]]:
    if "data" in output:
        for kind, text in sorted(output["data"].items()):
            yield kind, "".join(text)
    else:
        yield output.get("name", output["output_type"]), "".join(output.get("text", []))


def main() -> int:
    """Run the tutorial; 0 if every cell came to its end."""
    import nbformat

    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    asked.add_argument("--into", type=Path, default=NOTEBOOK, help="write the result there")
    given = asked.parse_args()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        execute(notebook, Path(folder))
    notebook["metadata"]["tidegate"] = {"cells": cells_digest(notebook)}
    notebook["metadata"]["language_info"] = {"name": "python"}
    nbformat.write(notebook, given.into)
    print(f"wrote {given.into}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
