"""`tidegate models fetch` and `predict`: alike by a profile and at the server, and of what was registered."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import server.api.reading
from contract.model_version import HASH_TAGS
from serving.prediction import Predictor
from tests.installations import tidegate_with
from tests.scientist.conftest import Standing

Command = Callable[..., str]


def rows_in(folder: Path, standing: Standing) -> Path:
    names = [feature.name for feature in standing.experiment.task.features]
    lines = [("id", *names), ("a", "1", "1", "1"), ("b", "-1", "", "-1"), ("c", "2"), ("d", "-1", "-1", "-1")]
    path = folder / "rows.csv"
    path.write_text("\n".join(map(",".join, lines)) + "\n")
    return path


def test_the_same_predictions_by_a_profile_and_at_the_server(
    standing: Standing, tidegate: Command, tmp_path: Path
) -> None:
    rows = rows_in(tmp_path, standing)
    standing.here()
    here = [tidegate("models", "predict", "fake", 2, rows, *more) for more in ((), ("--json",))]
    tidegate("models", "fetch", "fake", 2, tmp_path / "here")
    standing.connect("ada", "scientist")
    for name in ("TIDEGATE_HOME", "MLFLOW_TRACKING_URI", "TIDEGATE_ARTIFACT_ROOT"):
        standing.patch.delenv(name)
    assert [tidegate("models", "predict", "fake", 2, rows, *more) for more in ((), ("--json",))] == here
    assert "is in fake-2" in tidegate("models", "fetch", "fake", 2)
    for file in (tmp_path / "here").iterdir():
        assert file.read_bytes() == Path("fake-2", file.name).read_bytes()
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd="fake-2", check=True)
    told = json.loads(here[1])
    assert (told["model"], told["version"], told["rows"], told["without"]) == ("fake", 2, 4, 2)
    names = [feature.name for feature in standing.experiment.task.features]
    assert [row["reason"] for row in told["predictions"]] == [
        "",
        f"{names[1]}: a missing value",
        "not as many values as the header has",
        "",
    ]
    assert [row["row"] for row in told["predictions"]] == [1, 2, 3, 4]
    chances = [row["probability_1"] for row in told["predictions"]]
    assert chances[1] is chances[2] is None
    assert chances[0] > 0.99
    assert chances[3] == 0.5
    assert [row["prediction"] for row in told["predictions"]] == ["1", None, None, "0"]
    assert "2 predictions by fake version 2; 2 rows without." in here[0]
    assert Predictor.of(Path("fake-2")).experiment.name == standing.experiment.name


def test_a_file_takes_all_and_none_is_written_over(
    standing: Standing, tidegate: Command, tmp_path: Path
) -> None:
    rows = rows_in(tmp_path, standing)
    standing.connect("ada", "scientist")
    told = tidegate("models", "predict", "fake", 2, rows, "--out", "out.csv")
    assert "2 predictions in out.csv" in told
    with Path("out.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["prediction"] for row in found] == ["1", "", "", "0"]
    before = Path("out.csv").read_bytes()
    assert "there is a file already" in tidegate(
        "models", "predict", "fake", 2, rows, "--out", "out.csv", code=2
    )
    assert Path("out.csv").read_bytes() == before
    rows.write_text(rows.read_text() + "x" * 200_000 + "\n")
    assert "not a CSV file" in tidegate("models", "predict", "fake", 2, rows, "--out", "half.csv", code=2)
    assert not Path("half.csv").exists()
    assert "there is a file already" in tidegate("models", "fetch", "fake", 2, "out.csv", code=2)
    assert "there is a file already" in tidegate("models", "fetch", "fake", 2, tmp_path, code=2)


def test_what_cannot_be_is_a_sentence(standing: Standing, tidegate: Command, tmp_path: Path) -> None:
    rows = rows_in(tmp_path, standing)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "case.csv").write_text("x0,X1,x2\n1,2,3\n")
    (tmp_path / "signs.csv").write_text("x0;x1;x2\n1;2;3\n")
    standing.connect("ada", "scientist")
    for arguments, words in (
        (("predict", "fake", 9, rows), "there is no such version"),
        (("fetch", "fake", 9), "there is no such version"),
        (("predict", "../x", 1, rows), "cannot be the name"),
        (("predict", "fake", 1, "none.csv"), "No such file"),
        (
            ("predict", "fake", 1, "other.csv"),
            "other.csv: there is no column 'x0', which the model 'fake' needs (3 are lacking in all). Give",
        ),
        (("predict", "fake", 1, "case.csv"), "no column 'x1', which the model 'fake' needs; the nearest is"),
        (("predict", "fake", 1, "signs.csv"), "Its header is one column, 'x0;x1;x2'"),
        (("predict", "fake", 1, rows, "--separator", ";;"), "not one character"),
        (("predict", "fake", 1, rows, "--decimal", ";"), "'.' or ','"),
        (("fetch", "fake", 1, "none/there"), "cannot be made"),
    ):
        told = tidegate("models", *arguments, code=2)
        assert told.startswith("error: "), told
        assert words in told
        assert told.count("\n") == 1
    (tmp_path / "tab.csv").write_text("x0\tx1\tx2\n1\t2\t3\n")
    told = tidegate("models", "predict", "fake", 1, "tab.csv", "--separator", r"\t")
    assert "1 prediction by fake version 1" in told
    standing.here()
    assert "there is no version 9" in tidegate("models", "predict", "fake", 9, rows, code=2)


@pytest.mark.parametrize("name", HASH_TAGS)
def test_what_was_changed_on_the_way_is_refused(
    standing: Standing, tidegate: Command, tmp_path: Path, name: str
) -> None:
    """A server that sends other bytes than its own record has the hashes of."""
    rows = rows_in(tmp_path, standing)
    files = standing.served_files("fake", 2)
    changed = files | {name: files[name][:-1] + bytes([files[name][-1] ^ 1])}
    standing.patch.setattr(server.api.reading.Registry, "files", lambda *_: changed)
    standing.connect("ada", "scientist")
    for arguments in (("predict", "fake", 2, rows), ("fetch", "fake", 2)):
        assert "registered" in tidegate("models", *arguments, code=1)
    assert not Path("fake-2").exists()


def test_a_model_too_large_to_send_is_said(standing: Standing, tidegate: Command) -> None:
    standing.patch.setattr(server.api.reading, "MOST_ARRAYS", 100)
    standing.connect("ada", "scientist")
    assert "longer than the 100 bytes" in tidegate("models", "fetch", "fake", 2, code=2)


def test_the_least_installation_fetches_and_says_what_predicting_needs(
    standing: Standing, tmp_path: Path
) -> None:
    rows = rows_in(tmp_path, standing)
    standing.connect("ada", "scientist")
    done = tidegate_with("scientist", tmp_path, "models", "fetch", "fake", "2")
    assert done.returncode == 0, done.stderr
    done = tidegate_with("scientist", tmp_path, "models", "predict", "fake", "2", str(rows))
    assert done.returncode == 2
    assert "needs numpy" in done.stderr
    assert "pip install 'tidegate[predict]'" in done.stderr
    done = tidegate_with("predict", tmp_path, "models", "predict", "fake", "2", str(rows))
    assert done.returncode == 0, done.stderr
    assert "2 predictions" in done.stdout
