"""An alias that another moved is seen, put back, and told.

The decisions say which version is in service, and the alias `champion` only follows them. Nobody moves it
over the API, but whoever reaches MLflow's database can, or the port of an interface that asks nobody who they
are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from contract.errors import RegistryError, StorageError
from server.jobs.champion import champion_number, restore_alias
from server.jobs.review import show_decisions
from server.registry.aliases import champions
from server.registry.registry import Registry
from server.state.storage import State

__all__ = ["AliasWatch"]

_PAUSE = 3.0
"""Seconds between two looks."""
_Places = tuple[int | None, int | None]
"""The version that the alias of a model points at, and the one that it should."""


class AliasWatch:
    """Looks where the alias of each model points.

    Args:
        state: has the decisions.
        registry: MLflow, which is imported only where an alias must be put back.
        say: is told of each that was.
    """

    def __init__(self, state: State, registry: Registry, say: Callable[[str], None]) -> None:
        self._state, self._registry, self._say = state, registry, say
        self._looked = 0.0
        self._is_away = False
        self._seen: dict[str, _Places] = {}

    def look(self) -> None:
        """Look, at most every few seconds; while a database is away that is said once.

        Only what two looks have found is put back: between a decision and its alias lies a moment.
        """
        if time.monotonic() - self._looked < _PAUSE:
            return
        self._looked = time.monotonic()
        try:
            found = self._differing()
            self._put_back({model: one for model, one in found.items() if self._seen.get(model) == one})
            self._seen = found
        except (RegistryError, StorageError) as exc:
            if not self._is_away:
                self._say(f"where aliases point is not known for now: {exc}")
            self._is_away = True
        else:
            self._is_away = False

    def look_now(self) -> None:
        """Put back each alias that is not where the decisions say, of models that this server made.

        Raises:
            StorageError: a database is away.
            RegistryError: MLflow is.
        """
        self._put_back(self._differing())

    def _differing(self) -> dict[str, _Places]:
        ours = sorted(self._state.trained_models())  # of others in the same MLflow nothing is known here
        shown = champions(self._registry.tracking_uri)
        places = {model: (shown.get(model), champion_number(model, self._state)) for model in ours}
        return {model: (found, decided) for model, (found, decided) in places.items() if found != decided}

    def _put_back(self, found: Mapping[str, _Places]) -> None:
        """Each of them, also where that of another cannot be."""
        failed: RegistryError | None = None
        for model, (place, decided) in found.items():
            try:
                told = restore_alias(model, place, self._state, self._registry)
            except RegistryError as exc:
                failed = exc
                continue
            if not told:
                continue
            self._say(f"model '{model}': {told}. It was put back")
            for version in (place, decided):
                with suppress(RegistryError):  # of a version that is gone from MLflow
                    if version is not None:
                        show_decisions(model, version, self._state, self._registry)
        if failed is not None:
            raise failed
