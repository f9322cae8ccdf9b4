"""An alias that another moved is seen, put back, and told.

The decisions say which version is in service, and the alias `champion` only follows them. Nobody moves it
over the API, but whoever reaches MLflow's database can, or the port of an interface that asks nobody who they
are.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from contract.errors import RegistryError, StorageError
from server.jobs.champion import champion_number, restore_alias
from server.registry.aliases import champions
from server.registry.registry import Registry
from server.state.storage import State

__all__ = ["AliasWatch"]

_PAUSE = 5.0
"""Seconds between two looks."""


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

    def look(self) -> None:
        """Look, at most every few seconds; while a database is away that is said once."""
        if time.monotonic() - self._looked < _PAUSE:
            return
        self._looked = time.monotonic()
        try:
            self.look_now()
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
        shown = champions(self._registry.tracking_uri)
        for model in sorted(
            self._state.trained_models()
        ):  # of others in the same MLflow nothing is known here
            decided = champion_number(model, self._state)
            if shown.get(model) != decided:
                told = restore_alias(model, self._state, self._registry)
                if told:
                    self._say(f"model '{model}': {told}. It was put back")
