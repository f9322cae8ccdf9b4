"""The pages: short where that was promised, one for each role, complete, and with links that lead on."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

import experiments
from experiments.planning.plan import Plan
from server.registry import passport

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = ROOT / "docs"
PAGE_OF = {
    "a data scientist": "data-scientist.md",
    "a site's administrator": "site-administrator.md",
    "a federation's operator": "operator.md",
    "a model's reviewer": "reviewer.md",
}
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md")), DOCS / "tutorial.ipynb"]
_LINK = re.compile(r"\]\(([^)#\s]*)(?:#[^)\s]*)?\)")


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_each_role_has_a_page_to_which_the_readme_leads() -> None:
    table = README.split("| you are |")[1].split("\n\n")[0]
    roles = [line.split("|")[1].split("(")[0].strip() for line in table.splitlines()[2:]]
    assert roles == list(PAGE_OF)
    for page in PAGE_OF.values():
        assert f"](docs/{page})" in README, page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_link_leads_to_a_file(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = nbformat.read(page, as_version=4)["cells"]
        text = "\n".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown")
    links = [one for one in _LINK.findall(text) if one and "://" not in one]
    assert [one for one in links if not (page.parent / one).exists()] == []


def test_the_page_on_python_has_every_name() -> None:
    page = (DOCS / "python.md").read_text(encoding="utf-8")
    names = [one for kind in experiments.__all__ for one in public(getattr(experiments, kind))]
    assert {"follow", "from_cards", "predict", "cards"} <= set(names)
    assert [name for name in ("connect", "compare", *names) if not re.search(rf"\b{name}\b", page)] == []


def public(kind: Any) -> Iterator[str]:
    """The methods that a person calls."""
    if inspect.isclass(kind) and kind is not Plan:
        yield from (name for name in vars(kind) if not name.startswith("_") and name != "of")


def test_the_reviewers_guide_has_every_section_of_a_passport() -> None:
    sections = set(re.findall(r'"## ([A-Z][a-z]+(?: [a-z]+)*)', inspect.getsource(passport)))
    assert len(sections) > 4
    page = (DOCS / "reviewer.md").read_text(encoding="utf-8")
    assert [one for one in sorted(sections) if f"| {one} |" not in page] == []
