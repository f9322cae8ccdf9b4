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
from server.line.certificates import make_server_files
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
    assert {one.name for one in Path("fake-2").iterdir()} == {
        "arrays.npz", "experiment.json", "passport.md", "statement.dsse.json", "SHA256SUMS"
    }  # fmt: skip
    for name in ("arrays.npz", "experiment.json", "passport.md"):
        assert Path(tmp_path, "here", name).read_bytes() == Path("fake-2", name).read_bytes()
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


@pytest.mark.parametrize(("version", "code"), [(1, 1), (2, 2)])
@pytest.mark.parametrize("name", HASH_TAGS)
def test_what_was_changed_on_the_way_is_refused(
    standing: Standing, tidegate: Command, tmp_path: Path, name: str, version: int, code: int
) -> None:
    """A server that sends other bytes than its own record has the hashes of, or than it has signed."""
    rows = rows_in(tmp_path, standing)
    files = standing.served_files("fake", version)
    changed = files | {name: files[name][:-1] + bytes([files[name][-1] ^ 1])}
    standing.patch.setattr(server.api.reading.Registry, "files", lambda *_: changed)
    standing.connect("ada", "scientist")
    for arguments in (("predict", "fake", version, rows), ("fetch", "fake", version)):
        told = tidegate("models", *arguments, code=code)
        assert ("registered" if version == 1 else f"{name} is not the file that it names") in told
    assert not Path(f"fake-{version}").exists()


def test_a_folder_is_verified_far_from_the_server(
    standing: Standing, tidegate: Command, tmp_path: Path
) -> None:
    """By the authority that the profile knows, or a file of it; what was changed since is named."""
    standing.made_here()
    standing.connect("rita", "reviewer")
    tidegate("models", "approve", "fake", 2, "--reason", "seen")
    tidegate("models", "fetch", "fake", 2, "kept")
    told = tidegate("models", "verify", "kept")
    assert "version 2 of 'fake': all 3 files are as the federation registered them" in told
    assert "it was in service by decision " in told
    authority = tmp_path / "authority.pem"
    authority.write_bytes(standing.served.files.authority.read_bytes())
    said = json.loads(tidegate("models", "verify", "kept", "--authority", authority, "--json"))
    assert (said["model"], said["version"], set(said["files"])) == (
        "fake", 2, {"arrays.npz", "experiment.json", "passport.md"}
    )  # fmt: skip
    other = make_server_files(tmp_path / "other", ["tidegate.example"]).authority
    for arguments, words in (
        (("kept", "--authority", other), "another authority has signed it"),
        (("kept", "--authority", "none.pem"), "no authority is there"),
        (("nowhere",), "cannot be read"),
    ):
        assert words in tidegate("models", "verify", *arguments, code=2)
    tidegate("models", "fetch", "fake", 1, "unsigned")
    Path("unsigned/statement.dsse.json").unlink()
    assert "of a version that the server signs" in tidegate("models", "verify", "unsigned", code=2)
    for name, words in (
        ("model.pkl", "model.pkl is not the file that it names"),
        ("SHA256SUMS", "has other hashes"),
    ):
        kept = Path("kept", name).read_bytes() if Path("kept", name).exists() else None
        Path("kept", name).write_bytes(b"x")
        assert words in tidegate("models", "verify", "kept", code=2)
        if kept is None:
            Path("kept", name).unlink()
        else:
            Path("kept", name).write_bytes(kept)
    assert "as the federation registered them" in tidegate("models", "verify", "kept")
    Path("kept/passport.md").write_text("All fine, epsilon = 0.01")
    assert "passport.md is not the file that it names" in tidegate("models", "verify", "kept", code=2)
    Path("kept/passport.md").unlink()
    assert "passport.md is not the file that it names" in tidegate("models", "verify", "kept", code=2)
    for text in ("{", "[" * 200_000):
        Path("kept/statement.dsse.json").write_text(text)
        assert "not a statement" in tidegate("models", "verify", "kept", code=2)


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
