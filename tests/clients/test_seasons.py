"""A site holds the server to the season that its administrator approved, and each season pays for itself."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from clients import site as sites
from clients.site import open_site
from contract.errors import RefusalCode
from contract.experiment_file import parse_experiment
from contract.messages import DRIFT_QUERY, Instruction, Reply
from tests.cards import card_for
from tests.clients.test_app import ask, forget_sites

TEXT = """\
name = "seasons"
[task]
time = "seen"
label = { column = "ill" }
[[task.features]]
name = "level"
kind = "numeric"
low = 0
high = 100
[privacy]
epsilon = 2.0
delta = 1e-4
[drift]
epsilon = 0.5
reference = "same-season"
"""
EXPERIMENT = parse_experiment(TEXT, where="seasons")
YEAR = ("2024-01", "2024-02", "2024-03", "2025-01")
CAP = 2.0


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sites, "_open", {})
    monkeypatch.setattr("clients.mechanisms.drift.write_local_report", lambda *_: None)  # seconds
    rng = np.random.default_rng(1)
    lines = ["level,ill,seen,side"]
    for window in (*YEAR, "2026-01", "2026-02", "2026-08"):
        lines += [
            f"{rng.uniform(0, 100):.3f},{row % 2},{window}-05,{'holdout' if row % 4 == 0 else 'train'}"
            for row in range(20)
        ]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    card = card_for(EXPERIMENT, holdout="side")
    dated = card.replace('{ column = "seen" }', '{ column = "seen", kind = "date", every = "month" }')
    assert dated != card
    (tmp_path / "site.toml").write_text(
        'name = "north"\nstated_rows = 60\n[data]\nkind = "csv"\npath = "rows.csv"\n'
        f"{dated}[policy]\nepsilon_cap = {CAP}\n"
    )
    yield tmp_path / "site.toml"
    forget_sites()


def drift(site: Path, run: str, window: str, *reference: str) -> str:
    """The word with which the check was refused; empty where it was answered, of what was asked."""
    instruction = Instruction(run=run, windows=(window,), reference_windows=reference)
    answer = ask(site, DRIFT_QUERY, instruction=instruction, experiment=EXPERIMENT)
    if answer.has_error():
        return str(answer.error.reason)
    found = Reply.from_records(answer.content).drift
    assert found is not None
    assert (found.window, found.reference_window) == (window, "+".join(reference))
    return ""


def charged(site: Path) -> dict[str, float]:
    """ε by block, training side alone: a check is of both."""
    spent = open_site(site).ledger.spent_by_block()
    assert {block.split("/")[1] for block in spent} <= {"train", "holdout"}
    return {block.split("/")[0]: item.epsilon for block, item in spent.items() if block.endswith("train")}


def kinds(site: Path) -> list[str]:
    return [entry.kind for entry in open_site(site).ledger.entries()]


def test_a_season_pays_for_its_own_reference_and_once(site: Path) -> None:
    assert drift(site, "r1", "2026-01", "2024-01", "2025-01") == ""
    once = charged(site)
    assert set(once) == {"2024-01", "2025-01", "2026-01"}
    assert drift(site, "r2", "2026-02", "2024-02") == ""
    assert set(charged(site)) == {*once, "2024-02", "2026-02"}
    assert {block: charged(site)[block] for block in once} == once
    assert drift(site, "r3", "2026-01", "2024-01", "2025-01") == ""  # the reference is kept, the window pays
    assert charged(site)["2024-01"] == once["2024-01"]
    assert charged(site)["2026-01"] > once["2026-01"]


def test_no_row_is_read_that_is_not_charged(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    opened = open_site(site)
    rows = opened.rows

    def watched(windows: tuple[str, ...], **more: bool) -> object:
        assert windows
        assert set(windows) <= charged(site).keys()
        read.extend(windows)
        return rows(windows, **more)

    monkeypatch.setattr(opened, "rows", watched)
    assert drift(site, "r1", "2026-01", "2024-01", "2025-01") == ""
    assert set(read) == {"2024-01", "2025-01", "2026-01"}


def test_a_season_that_no_model_saw_is_compared_with_all(site: Path) -> None:
    assert drift(site, "r1", "2026-08", *YEAR) == ""
    assert set(charged(site)) == {*YEAR, "2026-08"}


@pytest.mark.parametrize(
    ("window", "reference"),
    [
        ("2026-01", YEAR),
        ("2026-01", ("2024-02", "2024-01")),
        ("2026-02", YEAR),
        ("2024-03", ("2024-03", "2025-01")),
    ],
)
def test_a_server_cannot_take_another_reference_than_was_approved(
    site: Path, window: str, reference: tuple[str, ...]
) -> None:
    assert drift(site, "r", window, *reference) == RefusalCode.INPUT
    assert kinds(site) == ["refuse"]  # nothing was charged, and so nothing read
    assert charged(site) == {}


def test_a_server_that_names_a_season_again_and_again_meets_the_cap(site: Path) -> None:
    """The same windows in another order, or fewer of them, are another reference: charged anew each time."""
    orders = [order for size in (1, 2) for order in permutations(("2024-01", "2025-01"), size)]
    words, before = [], 0.0
    for number in range(60):
        order = orders[number % len(orders)]
        # and a window as reference of itself is two uses of one block
        window = ("2026-01", "2024-01", "2025-01")[number % 3]
        words.append(drift(site, f"r{number}", window, *order))
        assert charged(site)["2024-01"] >= before
        before = charged(site)["2024-01"]
        assert max(charged(site).values()) <= CAP * (1 + 1e-9)
    assert words[0] == ""
    assert set(words) == {"", RefusalCode.BUDGET}
    assert words[-3:] == [RefusalCode.BUDGET] * 3


def test_a_label_is_refused_before_anything_is_charged(site: Path) -> None:
    site.write_text(site.read_text().replace('kind = "date", every = "month"', 'kind = "label"'))
    assert drift(site, "r", "2026-01", "2024-01") == RefusalCode.CARD
    assert kinds(site) == ["refuse"]
