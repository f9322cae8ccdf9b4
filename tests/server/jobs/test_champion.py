"""The alias follows the decisions, also where two are taken at one moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from server.jobs.review import approve
from server.registry.registry import CHAMPION
from server.state.records import VersionRecord
from server.state.storage import State
from tests.server.federation import plan


class Slow:
    """Stands for MLflow; does something else before it sets an alias for the first time."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        self.aliases: dict[str, int] = {}
        self._meanwhile: Callable[[], None] | None = meanwhile

    def versions(self, _model: str) -> tuple[VersionRecord, ...]:
        return tuple(
            VersionRecord(version=number, run_id="", description="", tags={}, aliases=()) for number in (1, 2)
        )

    def file_hashes(self, *_: object) -> dict[str, str]:
        return {}

    def files(self, *_: object) -> dict[str, bytes]:
        return {}

    def tag_version(self, *_: object) -> None:
        pass

    def set_alias(self, _model: str, alias: str, version: int) -> None:
        meanwhile, self._meanwhile = self._meanwhile, None
        if meanwhile is not None:
            meanwhile()
        self.aliases[alias] = version


def test_of_two_promotions_at_one_moment_the_later_decision_is_in_service(state: State) -> None:
    def other() -> None:
        approve("m", 2, state, registry, by="Bo", reason="better at all sites", least=0)

    registry: Any = Slow(other)
    for number in (1, 2):
        state.start_run(
            f"r{number}",
            experiment=plan().model_copy(update={"name": "m"}),
            job="train",
            trigger="t",
            code_hash="c",
        )
        state.link_run(f"r{number}", model_version=number)
    approve("m", 1, state, registry, by="Al", reason="better at one", least=0)
    promoted = [item.subject for item in state.decisions("m") if item.kind == "promote"]
    assert promoted == ["version 1", "version 2"]
    assert registry.aliases == {CHAMPION: 2}
