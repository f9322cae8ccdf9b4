"""Exact updates give rows away, noisy ones do not, and the words follow from the figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from contract.experiment import CategoricalFeature, Label, NumericFeature, Task
from experiments.studies import gradient_inversion
from experiments.studies.gradient_inversion import (
    CLIPPED,
    NOT_PRIVATE,
    RELEASES,
    Figures,
    Release,
    conclusion,
    decoded,
    digits,
    heart,
    recovered,
    run_study,
    summarise,
)
from experiments.studies.inversion_attack import public_prior
from experiments.studies.inversion_picture import draw
from server.settings import apply_quiet_environment

EPSILON_1 = Release(name="ε = 1", epsilon=1.0)
TOLERANCE = 0.05
"""By how much of the guess's squared error a noisy attack may be off it, either way, by chance."""
TASK = Task(
    label=Label(column="label"),
    features=(
        NumericFeature(name="age", kind="numeric", low=30, high=80),
        NumericFeature(name="male", kind="numeric", low=0, high=1),
        CategoricalFeature(name="pain", kind="categorical", categories=("a", "b", "c", "d")),
    ),
)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    apply_quiet_environment()
    caplog.set_level("ERROR", logger="tidegate.site")


@pytest.mark.parametrize("release", [NOT_PRIVATE, CLIPPED], ids=lambda release: str(release.name))
def test_an_exact_update_is_the_image(release: Release) -> None:
    (attempt,) = run_study([replace(digits("mlp", 1), repeats=1)], [release])
    assert np.abs(attempt.found - attempt.rows).max() < 0.01
    assert attempt.stated is None


def test_an_exact_update_is_the_patient(data_dir: Callable[[str], Path]) -> None:
    data_dir("heart-disease")
    (attempt,) = run_study([replace(heart("linear", 1), repeats=1)], [NOT_PRIVATE])
    assert np.abs(attempt.found - attempt.rows).max() < 0.01
    assert all(recovered(attempt.setting.experiment.task, attempt.rows[0], attempt.found[0]))


def test_an_exact_update_of_four_images_by_a_cnn_gives_most_of_them_away() -> None:
    guess, attack = summarise(run_study([replace(digits("cnn", 4), repeats=1)], [NOT_PRIVATE]))
    assert attack.gain > 0.5
    assert attack.recovered[0] > guess.recovered[0] + 0.1


def test_at_epsilon_1_the_attack_is_no_better_than_a_guess_and_the_noise_is_why() -> None:
    hardly_any = Release(name="hardly any noise", epsilon=1e4)
    attempts = run_study([digits("mlp", 1)], [EPSILON_1, hardly_any])
    guess, private, exposed = summarise(attempts)
    assert abs(private.gain) < TOLERANCE
    assert private.recovered[0] < guess.recovered[0] + TOLERANCE
    assert exposed.gain > 0.5
    assert private.epsilon is not None
    assert 0.99 < private.epsilon <= 1.0


def test_values_by_hand() -> None:
    row = np.array([0.5, 1.0, 0, 0, 1, 0])
    assert decoded(TASK, row) == [55.0, 1.0, "c"]
    assert recovered(TASK, row, np.array([0.54, 0.6, 0.1, 0.2, 0.3, 0.2])) == [True, True, True]
    assert recovered(TASK, row, np.array([0.56, 0.4, 0.4, 0.2, 0.3, 0.2])) == [False, False, False]
    mean, variance = public_prior(TASK)
    np.testing.assert_allclose(mean, [0.5, 0.5, *[0.25] * 4])
    np.testing.assert_allclose(variance, [1 / 12, 1 / 4, *[3 / 16] * 4])


def test_the_conclusion_follows_from_the_figures() -> None:
    def figures(release: str, gain: float) -> Figures:
        return Figures(
            setting="one", release=release, recovered=(0.25 + gain / 2, 0.1), squared_error=(0.1, 0.01),
            psnr=10.0, correlation=(0.0, 0.0), gain=gain, epsilon=None,
        )  # fmt: skip

    told = conclusion([figures("", 0.0), figures("not private", 0.02), figures("ε = 1", 0.6)])
    assert "not private: 26 % right, error -2 %; rows given away in 0 of 1" in told
    assert "ε = 1: 55 % right, error -60 %; rows given away in 1 of 1" in told


def test_the_command_writes_a_picture_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gradient_inversion, "settings", lambda: [replace(digits("mlp", 1), repeats=1)])
    gradient_inversion.main(json=True, out=tmp_path / "made")
    found = json.loads(capsys.readouterr().out)
    assert Path(found["picture"]).read_bytes().startswith(b"\x89PNG")
    assert [row["release"] for row in found["figures"]] == ["", *(release.name for release in RELEASES)]
    assert found["figures"][0]["correlation"] is None
    gradient_inversion.main(json=False, out=tmp_path)
    told = capsys.readouterr().out.replace("\n", "")
    assert str(tmp_path / "gradient-inversion.png") in told
    assert "not private: 100 % right" in told


def test_the_picture_has_patients_too(data_dir: Callable[[str], Path]) -> None:
    data_dir("heart-disease")
    assert draw(run_study([replace(heart("linear", 1), repeats=1)], [CLIPPED])).startswith(b"\x89PNG")
