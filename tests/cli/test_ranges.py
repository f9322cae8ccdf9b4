"""`tidegate ranges`: from a file without ranges to one that can be trained, and what stands in the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from clients import site as sites
from clients.app import app as client_app
from clients.site import open_site
from contract.errors import ExperimentError, RoundError
from contract.experiment import NumericFeature
from contract.experiment_file import parse_experiment, parse_unranged
from experiments.runtimes.inline import InlineGrid
from server.app import run_job
from server.jobs.job import Job, RangeQuestion, read_job
from server.line.flower import assume_identity
from server.settings import read_settings
from server.state.storage import open_state
from terminal.range_files import with_ranges
from tests.cards import card_for

UNRANGED = """\
name = "small"
[task]
time = "window"
label = { column = "ill" }

# Nobody knows in public what this can be.
[[task.features]]
name = "level"
kind = "numeric"   # micrograms

[[ task.features ]]
missing = 0
name = "dose"
kind = "numeric"
transform = "log1p"

[[task.features]]
name = "age"
kind = "numeric"
low = 0
high = 120

[privacy]
epsilon = 5.0
delta = 1e-5
"""
ROWS = 4000
Command = Callable[..., str]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Two sites, an experiment file and the server's home."""
    monkeypatch.setattr(sites, "_open", {})
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TIDEGATE_STATE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(UNRANGED)
    for number, name in enumerate(("north", "south")):
        rng = np.random.default_rng(number)
        level, dose = rng.lognormal(2.0, 0.5, ROWS), rng.integers(0, 30, ROWS)
        lines = ["level,dose,age,ill,window"]
        lines += [
            f"{level[row]:.4f},{dose[row] if row % 4 else ''},{row % 90},{row % 3 == 0:d},w1"
            for row in range(ROWS)
        ]
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.csv").write_text("\n".join(lines) + "\n")
        (tmp_path / name / "site.toml").write_text(
            f'name = "{name}"\nstated_rows = 2800\n[data]\nkind = "csv"\npath = "rows.csv"\n'
            f"{card_for(parse_unranged(UNRANGED, where='card').experiment)}[policy]\nepsilon_cap = 4.0\n"
        )
    yield tmp_path
    for known in sites._open.values():
        known.ledger.close()


def both(place: Path) -> tuple[str, ...]:
    return ("--site", str(place / "north" / "site.toml"), "--site", str(place / "south" / "site.toml"))


def entries(place: Path) -> list[str]:
    return [entry.kind for entry in open_site(place / "north" / "site.toml").ledger.entries()]


def one_sentence(told: str) -> str:
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    return told


def test_ranges_are_asked_for_written_and_trained_with(tidegate: Command, place: Path) -> None:
    told = tidegate("ranges", "small.toml", *both(place), "--epsilon", 1.5, "--write", "whole.toml")
    written = (place / "whole.toml").read_text()
    experiment = parse_experiment(written, where="whole.toml")
    level, dose, age = experiment.task.features
    assert isinstance(level, NumericFeature)
    assert isinstance(dose, NumericFeature)
    assert isinstance(age, NumericFeature)
    assert 1.0 <= level.low <= 2.5  # the 1 % quantile is 2.3
    assert 20 <= level.high <= 40  # the 99 % quantile is 23.6
    assert (dose.low, dose.high) == (0.0, 31.5)
    assert (age.low, age.high) == (0.0, 120.0)
    assert written.replace(f"low = {level.low!r}\nhigh = {level.high!r}\n", "").replace(
        f"low = {dose.low!r}\nhigh = {dose.high!r}\n", ""
    ) == UNRANGED.replace("[[ task.features ]]", "[[task.features]]")  # comments and all
    assert f"# level\nlow = {level.low!r}\nhigh = {level.high!r}\n" in told
    assert "25." in told or "24." in told  # percent of the doses are missing
    assert "north 1.50, south 1.50" in told


def test_the_same_question_again_costs_nothing(tidegate: Command, place: Path) -> None:
    ask = ("ranges", "small.toml", *both(place), "--epsilon", 1.5, "--json")
    one, two = (json.loads(tidegate(*ask)) for _ in range(2))
    assert entries(place) == ["authorise", "reserve", "commit"]
    assert one["features"] == two["features"]
    assert one["run"] != two["run"]
    spent = open_site(place / "north" / "site.toml").ledger.spent(delta=1e-5)
    assert spent.epsilon == pytest.approx(1.5)
    with open_state(read_settings().state_url) as state:
        assert [(run.job, run.status) for run in state.runs("small")] == [("ranges", "succeeded")] * 2


def test_a_question_over_the_cap_is_refused_in_one_sentence(tidegate: Command, place: Path) -> None:
    ask = ("ranges", "small.toml", *both(place), "--epsilon", 4.8)
    assert "cap of 4" in one_sentence(tidegate(*ask, code=2))
    assert entries(place) == []


def test_a_question_that_costs_more_than_the_experiment_is_refused(tidegate: Command, place: Path) -> None:
    told = one_sentence(tidegate("ranges", "small.toml", *both(place), "--epsilon", 5.1, code=2))
    assert "privacy.epsilon = 5" in told
    assert entries(place) == []


def test_noise_that_would_hide_everything_is_refused_before_it_is_paid(
    tidegate: Command, place: Path
) -> None:
    told = one_sentence(tidegate("ranges", "small.toml", *both(place), code=2))
    assert "nothing charged" in told
    assert entries(place) == []
    assert "about 8,000 rows with the held-out ones" in told
    enough = told.partition("Give --epsilon ")[2].partition(",")[0]
    told = tidegate("ranges", "small.toml", *both(place), "--epsilon", enough, code=1)
    assert "# level" in told
    assert "# dose" not in told  # of which a quarter is missing: too few rows are left


def test_a_share_a_little_below_what_can_be_told_is_not_paid_for(tidegate: Command, place: Path) -> None:
    ask = ("ranges", "small.toml", *both(place), "--share")
    told = one_sentence(tidegate(*ask, 0.001, code=2))
    least = float(told.partition("hide tails below ")[2].partition("%")[0]) / 100
    assert "nothing charged" in one_sentence(tidegate(*ask, 0.9 * least, code=2))
    assert entries(place) == []


def test_no_more_is_offered_than_the_experiment_has(tidegate: Command, place: Path) -> None:
    """The next question would be refused for it."""
    (place / "small.toml").write_text(UNRANGED.replace("epsilon = 5.0", "epsilon = 0.6"))
    told = one_sentence(tidegate("ranges", "small.toml", *both(place), code=2))
    assert "--epsilon " not in told.partition("Give ")[2]
    assert "Give --share " in told


def test_a_range_that_the_noise_hides_is_not_told(tidegate: Command, place: Path) -> None:
    """The sites state three times the rows that they have."""
    for name in ("north", "south"):
        file = place / name / "site.toml"
        file.write_text(file.read_text().replace("2800", "9000"))
    ask = ("ranges", "small.toml", *both(place), "--epsilon", 0.4)
    told = tidegate(*ask, "--write", "whole.toml", code=1)
    assert "low =" not in told
    assert "the noise hides tails below" in told
    assert "larger --epsilon" in told
    assert "more sites" in told
    assert not (place / "whole.toml").exists()
    wide = tidegate(*ask, "--share", 0.1)
    assert "low =" in wide
    assert entries(place).count("reserve") == 1  # the counts are the same


def test_a_file_with_every_range_has_nothing_to_ask(tidegate: Command, place: Path) -> None:
    whole = with_ranges(UNRANGED, {"level": (0.0, 10.0), "dose": (0.0, 10.0)}, where="x")
    (place / "whole.toml").write_text(whole)
    assert "nothing to ask" in one_sentence(tidegate("ranges", "whole.toml", *both(place), code=2))


def test_a_run_without_ranges_is_refused_and_names_the_command(tidegate: Command, place: Path) -> None:
    told = one_sentence(tidegate("run", "small.toml", *both(place), code=2))
    assert "'level', 'dose' state no low and high" in told
    assert "tidegate ranges small.toml" in told


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--epsilon", -1, "not a positive number"),
        ("--share", 0.5, "between 0 and 0.5"),
        ("--runtime", "cloud", "no runtime 'cloud'"),
        ("--write", "small.toml", "a file already"),
    ],
)
def test_options_that_mean_nothing(
    tidegate: Command, place: Path, option: str, value: object, words: str
) -> None:
    assert words in one_sentence(tidegate("ranges", "small.toml", *both(place), option, value, code=2))


def test_a_file_of_another_form_is_written_rightly() -> None:
    inline = 'name = "x"\n[task]\nlabel = { column = "ill" }\nfeatures = [{ name = "a", kind = "numeric" }]\n'
    (feature,) = parse_experiment(with_ranges(inline, {"a": (0.0, 1.0)}, where="x"), where="x").task.features
    assert feature == NumericFeature(name="a", kind="numeric", low=0.0, high=1.0)
    with pytest.raises(ExperimentError, match="'dose' states no low and high"):
        with_ranges(UNRANGED, {"level": (0.0, 1.0)}, where="x.toml")
    heading = 'time = "window"\ndescription = """\n[[task.features]]\n"""'
    text = UNRANGED.replace('time = "window"', heading)
    written = with_ranges(text, {"level": (0.0, 1.0), "dose": (0.0, 2.0)}, where="x.toml")
    assert heading in written
    assert "# Nobody knows in public what this can be." in written
    found = parse_experiment(written, where="x.toml").task.features
    assert [getattr(one, "high", None) for one in found] == [1.0, 2.0, 120.0]


def job(*, share: float = 0.01, question: bool = True) -> Job:
    unranged = parse_unranged(UNRANGED, where="small")
    asked = RangeQuestion(features=unranged.features, epsilon=1.5, share=share) if question else None
    return Job(kind="ranges", run="r", experiment=unranged.experiment, question=asked)


def run_inline(place: Path, asked: Job, *names: str) -> None:
    grid = InlineGrid(client_app, [place / name / "site.toml" for name in names], asked.to_run_config())
    assume_identity(grid.run_id)
    run_job(asked, grid, read_settings())


def test_a_site_that_refuses_is_named_with_its_word(place: Path) -> None:
    (place / "west").mkdir()
    for name in ("rows.csv", "site.toml"):
        text = (place / "north" / name).read_text().replace("north", "west")
        (place / "west" / name).write_text(text.replace("epsilon_cap = 4.0", "epsilon_cap = 0.1"))
    run_inline(place, job(), "north", "south", "west")
    with open_state(read_settings().state_url) as state:
        record = state.run("r")
    assert record is not None
    assert record.status == "partial"
    result = json.loads(record.result or "")
    assert result["failures"] == {"node 3": "budget"}
    assert list(result["sites"]) == ["north", "south"]
    assert result["rows"] == pytest.approx(2 * ROWS, abs=6 * result["rows_error"])


def test_a_question_that_too_few_answer_fails(place: Path) -> None:
    (place / "south" / "site.toml").write_text("")
    with pytest.raises(RoundError):
        run_inline(place, job(), "north", "south")
    with open_state(read_settings().state_url) as state:
        record = state.run("r")
    assert record is not None
    assert record.status == "failed"


def test_a_question_travels_in_the_run_configuration(place: Path) -> None:
    assert read_job(job().to_run_config(), fallback_run="") == job()
    for wrong in (job(share=0.7), job(question=False)):
        with pytest.raises(ExperimentError, match="question"):
            run_inline(place, wrong, "north", "south")
    with pytest.raises(ExperimentError, match="question"):
        read_job({**job().to_run_config(), "question": '{"epsilon": 1}'}, fallback_run="")
    with pytest.raises(ExperimentError, match="'rages'"):
        read_job({**job().to_run_config(), "job": "rages"}, fallback_run="")
