"""What a reviewer sees in MLflow, in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.e2e.browser import needs_browser, see
from tests.e2e.standing_demo import PICTURES, StandingDemo
from tests.pictures import keep

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800), pytest.mark.xdist_group("demo"), needs_browser]


def test_the_experiment_and_its_runs(demo: StandingDemo, browser: webdriver.Chrome) -> None:
    see(browser, f"{demo.result['ui']}/#/experiments", "rand-health")


def test_the_metrics_of_a_run(demo: StandingDemo, browser: webdriver.Chrome) -> None:
    import sqlite3

    state = sqlite3.connect(demo.folder / "server" / "state.db")
    (run,) = state.execute("select mlflow_run_id from runs where model_version = 1").fetchone()
    (experiment,) = (
        sqlite3.connect(demo.folder / "mlruns" / "mlflow.db")
        .execute("select experiment_id from runs where run_uuid = ?", (run,))
        .fetchone()
    )
    see(browser, f"{demo.result['ui']}/#/experiments/{experiment}/runs/{run}", "overall/log_loss")


def test_two_versions_with_the_champion_marked(demo: StandingDemo, browser: webdriver.Chrome) -> None:
    text = see(browser, f"{demo.result['ui']}/#/models/rand-health", "Version 1", "Version 2", "champion")
    assert text.count("champion") >= 1


def test_the_passport_is_rendered(demo: StandingDemo, browser: webdriver.Chrome, tmp_path: Path) -> None:
    page = f"{demo.result['ui']}/#/models/rand-health/versions/2"
    text = see(
        browser,
        page,
        "Model passport: rand-health",
        "Privacy by site",
        "Against the champion",
        "free-care",
        "Decisions",
    )
    assert "| --- |" not in text
    assert len(browser.find_elements(By.CSS_SELECTOR, "table td")) > 40
    browser.set_window_size(1400, 3100)  # all of it, to its last table
    (judged,) = [step for step in demo.result["steps"] if step["name"].endswith("by the gate")]
    approved = "approved by the demo's reviewer" if "proposed" in judged["name"] else "not accepted: "
    see(browser, page, approved)  # noise decides, in one demo of some
    picture = tmp_path / "passport.png"
    assert browser.save_screenshot(str(picture))
    if PICTURES is not None:
        keep(picture, PICTURES, "passport.png")
        keep(demo.folder / "story.png", PICTURES, "story.png")
