"""A run that starts a server of its own leaves alone the one that stands in the same home."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.experiment import Experiment
from experiments.federated_run import Request, _deployment
from server.federation import Federation, running_federation
from server.line.flower import ControlClient
from server.line.processes import Processes
from server.settings import read_settings
from tests.adversary.wire import base_experiment


class _StartedError(Exception):
    """The run's own server is up."""


def test_a_run_of_its_own_server_leaves_the_address_of_the_standing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else `tidegate server admit` would ask a server that ended with the run."""

    def started(_: ControlClient) -> int:
        raise _StartedError

    monkeypatch.setattr(Processes, "start", lambda *_: 1)
    monkeypatch.setattr("server.federation.wait_for_port", lambda *_: None)
    monkeypatch.setattr(ControlClient, "connected", started)
    settings = read_settings({"TIDEGATE_HOME": str(tmp_path)})
    with Processes(logs=tmp_path / "logs") as processes:
        Federation(home=tmp_path, settings=settings, processes=processes, lasting=True).start_server().close()
    address = tmp_path / "superlink.address"
    standing = address.read_text()
    request = Request(
        experiment=Experiment.model_validate(base_experiment()),
        run="run-1",
        sites=[],
        settings=settings,
        runtime="deployment",
    )
    with pytest.raises(_StartedError):
        _deployment(request)
    assert address.read_text() == standing
    assert running_federation(settings) == "standing"
