"""A served API with something of everything in its state; commands reach it by a profile, or here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from contract.card import Card
from contract.experiment import Experiment
from contract.verdicts import POOLED, FeatureVerdict, SiteVerdict, Verdict
from scientist.profiles import Profile, Profiles
from scientist.settings import read_settings
from server.federation import running_federation
from server.line.processes import free_port
from server.registry.registry import Registry
from server.state.enrolments import Enrolments
from server.state.records import Enrolment, ScheduleRecord
from server.state.schedules import Schedules
from server.state.versions import RegisteredVersions
from tests.cli.conftest import tidegate
from tests.server.api.conftest import Served, serving
from tests.server.federation import plan

__all__ = ["Standing", "standing", "tidegate"]

Command = Callable[..., str]
CARD = {
    "description": "Visits",
    "columns": [
        {"name": "age", "kind": "numeric", "low": 0, "high": 120, "meaning": "years"},
        {"name": "level", "kind": "numeric"},
        {"name": "ill", "kind": "categorical", "categories": ["no", "yes"]},
    ],
    "time": {"column": "day", "kind": "date", "every": "week", "lag": 2},
}


@dataclass
class Standing:
    """A federation, and who is connected to it."""

    served: Served
    experiment: Experiment
    config: Path
    patch: pytest.MonkeyPatch

    def connect(self, name: str, role: str) -> None:
        """Use the profile of a person, who is made known first."""
        token = self.served.people.add(name, role)  # type: ignore[arg-type]
        self.patch.setenv("XDG_CONFIG_HOME", str(self.config / name))
        known = {"url": self.served.url, "person": name, "role": role, "token": token}
        authority = self.served.files.authority.read_text()
        Profiles(read_settings()).save("there", Profile.model_validate({**known, "authority": authority}))

    def here(self) -> None:
        """Use no profile, and the server's own folder."""
        self.patch.setenv("XDG_CONFIG_HOME", str(self.config / "nobody"))
        home = self.served.settings.home
        self.patch.setenv("TIDEGATE_HOME", str(home))
        self.patch.setenv("MLFLOW_TRACKING_URI", self.served.settings.tracking_uri)
        self.patch.setenv("TIDEGATE_ARTIFACT_ROOT", str(self.served.settings.artifact_root))

    def served_files(self, model: str, version: int) -> dict[str, bytes]:
        """What the registry has of a version."""
        settings = self.served.settings
        return Registry(settings.tracking_uri, settings.artifact_root).files(model, version)

    @property
    def federation(self) -> str:
        return running_federation(self.served.settings)

    def made_here(self) -> None:
        """Have the versions be of runs of this server: others are not its reviewers' to decide on."""
        for number in (1, 2):
            name, state = f"run-{number}", self.served.state
            state.start_run(name, experiment=self.experiment, job="train", trigger="ada", code_hash="c")
            state.link_run(name, model_version=number)

    def verdict(self, window: str, text: str = "x0") -> None:
        """An alarm for that window, whose names are that text."""
        found = FeatureVerdict(feature=text, p_value=0.0004, distance=0.1, drifted=True)
        site = SiteVerdict(site=text, features=(found,))
        pooled = SiteVerdict(site=POOLED, features=(found,))
        verdict = Verdict(
            window=window, reference_window="", false_alarm_rate=0.01, sites=(site,), pooled=pooled
        )
        state = self.served.state
        state.save_verdict("fake", window=window, verdict=asdict(verdict), alarm=True)
        state.record_decision(
            "fake", window=window, kind="watch", subject="retraining", by="policy", reason=text
        )


@pytest.fixture
def standing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Standing]:
    monkeypatch.chdir(tmp_path)  # no server is there
    experiment = plan()
    with serving(tmp_path / "home", free_port()) as served:
        found = Standing(served, experiment, tmp_path / "config", monkeypatch)
        _fill(found)
        yield found


def _fill(standing: Standing) -> None:
    served, experiment, state = standing.served, standing.experiment, standing.served.state
    for number, name in enumerate(("north", "south"), start=1):
        state.admit_site(
            name, federation=standing.federation, node_id=number, key=f"k{number}", stated_rows=5000
        )
    enrolments = Enrolments(state.database, standing.federation)
    enrolments.invite(
        "north", secret="5" * 64, now=datetime.now(UTC), expires=datetime.now(UTC).replace(year=2999)
    )
    asked = Enrolment(
        federation=standing.federation,
        name="north",
        fingerprint="SHA256:x",
        public_key="k",
        signing_request="r",
        card=Card.model_validate(CARD).model_dump(mode="json"),
        stated_rows=5000,
        asked=datetime.now(UTC),
    )
    assert enrolments.join(asked, secret="5" * 64, now=datetime.now(UTC))
    assert enrolments.confirm(asked, "certificate", now=datetime.now(UTC))
    registry = Registry(served.settings.tracking_uri, served.settings.artifact_root)
    for number in (1, 2):
        run = registry.start_run(experiment, run_name=f"run-{number}")
        arrays = {
            "layers.0.weight": np.full((1, 3), number, np.float32),
            "layers.0.bias": np.zeros(1, np.float32),
        }
        tags = {"tidegate.run": f"run-{number}", "tidegate.windows": '["w1"]', "tidegate.private": "yes"}
        registry.register(
            "fake", run, arrays, experiment=experiment, description=f"# Passport {number}", tags=tags
        )
    registered = RegisteredVersions(state.database)  # of the second: an earlier Tidegate registered the first
    registered.add_files("fake", 2, registry.file_hashes("fake", 2))
    registered.add_passport("fake", 2, "# Passport 2")
    schedules = Schedules(state.database)
    schedules.add(ScheduleRecord.of(experiment, every="week", first="2026-W05"))
    schedules.enter("fake", [(f"2026-W{week:02}", datetime.now(UTC)) for week in range(5, 9)])
    for window in ("2026-W05", "2026-W06"):
        standing.verdict(window)
    for name in ("first", "second"):
        state.start_run(name, experiment=experiment, job="train", trigger="ada", code_hash="c")
        state.finish_run(name, "failed", error="too few sites")
