"""The audit's hostile server: it sees what a site lets out for nothing, and finds nothing at a whole one.

Each fault is one that let something out. It is put into the code that runs at a site; the attack knows
nothing of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import pytest
import torch

import clients.app
import clients.gate
import clients.line.agent
import clients.mechanisms.clipping
import clients.mechanisms.evaluation
import clients.site
from clients.rows.rows import Rows
from contract.errors import DataError
from contract.experiment import Experiment
from contract.messages import Instruction
from experiments.audit.hostile import ATTACKS, attack_site
from server.settings import apply_quiet_environment

Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    apply_quiet_environment()
    caplog.set_level("CRITICAL", logger="tidegate.site")
    clients.app.warm_up()  # an agent has all of that before its first message


def an_instruction_of_whatever_comes(patch: Patch) -> None:
    def read(records: Any) -> tuple[Instruction, bytes]:
        record = records.config_records["config"]
        said = json.loads(record["instruction"])
        known = {field.name: said[field.name] for field in fields(Instruction) if field.name in said}
        known |= {name: tuple(known.get(name) or ()) for name in ("windows", "reference_windows", "features")}
        return Instruction(**known), record["arrays"]

    patch.setattr(clients.app.Instruction, "from_records", read)


def windows_that_are_stripped_as_rows_are_chosen(patch: Patch) -> None:
    an_instruction_of_whatever_comes(patch)
    choose = Rows.of
    patch.setattr(
        Rows,
        "of",
        lambda self, windows, **side: choose(self, tuple(name.strip("\0 \n") for name in windows), **side),
    )


def a_row_that_does_not_fit_ends_the_exchange(patch: Patch) -> None:
    prepare = clients.site.prepare

    def strict(rows: Rows, experiment: Experiment, card: Any) -> Any:
        table = prepare(rows, experiment, card)
        if table.fit.kept < table.fit.rows:
            raise DataError("a row does not fit")
        return table

    patch.setattr(clients.site, "prepare", strict)


def scores_that_must_be_numbers(patch: Patch) -> None:
    scores = clients.mechanisms.evaluation.scores

    def careful(logits: torch.Tensor, labels: torch.Tensor) -> Any:
        if not torch.isfinite(logits).all():
            raise DataError("a score is no number")
        return scores(logits, labels)

    patch.setattr(clients.mechanisms.evaluation, "scores", careful)


def gradients_that_nobody_clips(patch: Patch) -> None:
    patch.setattr(clients.mechanisms.clipping, "clip_factors", lambda norms, _: torch.ones_like(norms))


def rows_that_are_read_before_the_policy(patch: Patch) -> None:
    offered = clients.site.Site.require_offered

    def eager(self: Any, experiment: Experiment, windows: tuple[str, ...], **named: Any) -> None:
        offered(self, experiment, windows, **named)
        if windows and not len(self.rows(windows)):
            raise DataError("no such window")

    patch.setattr(clients.site.Site, "require_offered", eager)


def replies_that_are_made_anew(patch: Patch) -> None:
    release = clients.gate.Gate.release

    def again(
        self: Any, request: str, experiment: Experiment, plans: Any, compute: Any, *more: Any, **named: Any
    ) -> bytes:
        if self._ledger.stored_reply(request) is None:
            return release(self, request, experiment, plans, compute, *more, **named)
        reply = self._reply(request, compute(), plans, experiment.privacy.delta)
        return bytes(reply.to_bytes())

    patch.setattr(clients.gate.Gate, "release", again)


def replies_that_go_out_at_once(patch: Patch) -> None:
    patch.setattr(clients.line.agent._Agent, "_wait_for_the_grid", lambda *_: None)


FAULTS: dict[str, Callable[[Patch], None]] = {
    "counts that are no counts": an_instruction_of_whatever_comes,
    "one window by many names": windows_that_are_stripped_as_rows_are_chosen,
    "rows that do not fit": a_row_that_does_not_fit_ends_the_exchange,
    "weights that overflow": scores_that_must_be_numbers,
    "gradients too small to square": gradients_that_nobody_clips,
    "words of refusal": rows_that_are_read_before_the_policy,
    "a request again, with other content": replies_that_are_made_anew,
    "when an answer comes": replies_that_go_out_at_once,
}


def test_every_attack_has_a_fault_that_it_finds() -> None:
    assert set(FAULTS) == set(ATTACKS)


@pytest.mark.parametrize("name", FAULTS)
def test_an_attack_finds_its_fault(name: str, monkeypatch: Patch) -> None:
    FAULTS[name](monkeypatch)
    (attempt,) = attack_site([name])
    assert attempt.alarm, attempt


def found() -> Iterator[tuple[str, int, int]]:
    for attempt in attack_site():
        yield attempt.attack, attempt.tries, attempt.let_through


def test_a_whole_site_lets_nothing_through() -> None:
    results = list(found())
    assert [name for name, tries, _ in results if not tries] == [], (
        "an attack that tries nothing finds nothing"
    )
    assert [result for result in results if result[2]] == []
