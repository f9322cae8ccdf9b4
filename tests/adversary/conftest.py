"""What the attacks share: libraries loaded once, a site, and a list of what each attack found."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from _hypothesis_pytestplugin import STATS_KEY

from tests.adversary import wire
from tests.adversary.rows import Figure, Rows, make_rows, text

LaySite = Callable[..., Path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A warning ends no message at a site, so it ends none here: what matters is what comes out."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore::RuntimeWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::UserWarning"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What each attack found, whether it was repelled or not."""
    reports = [one for found in terminalreporter.stats.values() for one in found]
    lines = [
        f"{'repelled' if one.passed else 'SUCCEEDS'}  {one.nodeid.rpartition('/')[2]}: {text}"
        for one in reports
        if getattr(one, "when", None) == "call"
        for name, text in one.user_properties
        if name == "figure"
    ]
    if lines:
        terminalreporter.write_sep("=", "what the attacks found")
        for line in sorted(set(lines)):
            terminalreporter.write_line(line)
    tried = sorted({line for one in reports for line in _tried(one)})
    if tried:
        terminalreporter.write_sep("=", "how much was tried")
        for line in tried:
            terminalreporter.write_line(line)


def _tried(report: Any) -> Iterator[str]:
    """Of a generated test its examples as hypothesis counted them; of another what it says itself."""
    test = report.nodeid.rpartition("/")[2] if hasattr(report, "when") else ""
    for name, said in getattr(report, "user_properties", ()):
        if name == "tried":
            yield f"{test:<80}{said}"
    statistics = getattr(report, STATS_KEY, "")
    if statistics:
        phases = [[int(number) for number in found] for found in _EXAMPLES.findall(statistics)]
        passing, failing, invalid = (sum(numbers) for numbers in zip((0, 0, 0), *phases, strict=True))
        yield f"{test:<80}{passing:,} examples passing, {failing:,} failing, {invalid:,} invalid"


_EXAMPLES = re.compile(r"(\d+) passing, (\d+) failing, and (\d+) invalid")


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Figure:
    return lambda found: record_property("figure", found)


@pytest.fixture
def tried(record_property: Callable[[str, object], None]) -> Figure:
    """Notes how many messages a test sent."""
    return lambda number: record_property("tried", number)


@pytest.fixture(scope="module")
def logs_dropped() -> Iterator[None]:
    """What is logged is put into words and dropped: pytest would keep it, with its frames, until the end."""
    words = logging.Formatter()
    with pytest.MonkeyPatch.context() as patch:  # not a logger's handlers: pytest adds its own to each
        patch.setattr(logging.Logger, "callHandlers", lambda _, record: words.format(record))
        yield


@pytest.fixture(scope="session", autouse=True)
def _warm() -> None:
    wire.assume_identity(1)
    wire.warm_up()


@pytest.fixture
def rows() -> Rows:
    return make_rows()


@pytest.fixture
def lay(tmp_path: Path) -> Iterator[LaySite]:
    """Lays sites out in folders of their own; their ledgers are closed afterwards."""
    made: list[Path] = []

    def lay_site(rows: Rows | str | bytes, **how: Any) -> Path:
        content = text(rows) if isinstance(rows, list) else rows
        site = wire.lay_site(tmp_path / f"outside-{len(made)}" / "site", content, **how)
        made.append(site)
        return site

    yield lay_site
    for site in made:
        wire.forget(site)


@pytest.fixture(scope="session")
def held_back() -> list[Any]:
    """Drift reports that were to be drawn."""
    return []


@pytest.fixture(scope="module", autouse=True)
def _draw(held_back: list[Any]) -> Iterator[Callable[[list[Any]], None]]:
    """Drawing takes seconds in a process of its own: only a test that asks for it has that process."""
    with wire.reports_held_back(held_back.append) as draw:
        yield draw


@pytest.fixture
def really_drawn(held_back: list[Any], _draw: Callable[[list[Any]], None]) -> Callable[[], int]:
    """Draws what was asked for since the test began, and says how many reports that are."""
    before = len(held_back)

    def draw() -> int:
        _draw(held_back[before:])
        return len(held_back) - before

    return draw
