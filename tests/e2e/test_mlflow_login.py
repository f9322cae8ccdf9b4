"""A reviewer signs in with a real browser at a real `tidegate server up`, and sees the models in MLflow."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from server.registry.registry import CHAMPION, Registry
from tests.e2e.browser import needs_browser, see, started
from tests.e2e.test_people import Standing
from tests.server.api.test_mlflow import ARRAYS, NAME
from tests.server.federation import plan

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800), needs_browser]


@pytest.fixture
def standing(tmp_path: Path) -> Iterator[Standing]:
    found = Standing(tmp_path)
    try:
        found.start()
        yield found
    finally:
        found.stop()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    # the federation's authority is none of the browser's
    with started(tmp_path / "browser", any_certificate=True) as driver:
        yield driver


def test_a_reviewer_signs_in_and_sees_a_model(standing: Standing, browser: webdriver.Chrome) -> None:
    registry = Registry(standing.settings.tracking_uri, standing.settings.artifact_root)
    run = registry.start_run(plan(), run_name="first")
    registry.log_metrics(run, {"overall/log_loss": 0.47}, step=1)
    passport = "# Model passport: small\n\n| site | ε |\n| --- | --- |\n| north | 1.5 |\n"
    registry.register(
        NAME, run, ARRAYS, experiment=plan(), description=passport, tags={"tidegate.run": "first"}
    )
    registry.finish_run(run, "succeeded")
    registry.set_alias(NAME, CHAMPION, 1)
    made = json.loads(standing.operator("server", "person", "add", "rita", "--role", "reviewer", "--json"))
    assert f"MLflow UI   {standing.url}/mlflow/" in standing.said

    browser.get(f"{standing.url}/mlflow/#/models")
    assert browser.current_url.split("#")[0] == f"{standing.url}/"
    browser.find_element(By.NAME, "token").send_keys("not a token")
    browser.find_element(By.TAG_NAME, "button").click()
    assert "This token is not good" in browser.find_element(By.TAG_NAME, "body").text
    browser.find_element(By.NAME, "token").send_keys(made["token"])
    browser.find_element(By.TAG_NAME, "button").click()
    _until(lambda: browser.find_elements(By.LINK_TEXT, "Models in MLflow"))
    browser.find_element(By.LINK_TEXT, "Models in MLflow").click()
    _until(lambda: browser.current_url.startswith(f"{standing.url}/mlflow/"))
    assert made["token"] not in browser.current_url
    assert browser.execute_script("return document.cookie") == ""

    end = time.monotonic() + 300
    while "does not answer" in browser.page_source:  # MLflow starts some seconds after the server
        assert time.monotonic() < end
        time.sleep(1)
        browser.refresh()
    see(browser, f"{standing.url}/mlflow/#/models/{NAME}", "Version 1", "champion")
    text = see(browser, f"{standing.url}/mlflow/#/models/{NAME}/versions/1", "Model passport: small", "north")
    assert "| --- |" not in text
    (home,) = {one["experiment_id"] for one in _ask(browser, "GET", "runs/get?run_id=" + run, None)[1]}
    see(browser, f"{standing.url}/mlflow/#/experiments/{home}/runs/{run}", "overall/log_loss")

    tag = {"name": NAME, "version": "1", "key": "seen-by", "value": "rita"}
    assert _ask(browser, "POST", "model-versions/set-tag", tag)[0] == 200
    alias = {"name": NAME, "version": "1", "alias": "challenger"}
    assert _ask(browser, "POST", "registered-models/alias", alias)[0] == 403
    (version,) = registry.versions(NAME)
    assert (version.tags["seen-by"], version.aliases) == ("rita", (CHAMPION,))
    refused = [
        line["message"]
        for line in browser.get_log("browser")
        if "Content Security Policy" in line["message"] or "net::ERR" in line["message"]
    ]
    assert not refused

    browser.get(standing.url)
    assert "rita (reviewer)" in browser.find_element(By.TAG_NAME, "body").text
    browser.find_element(By.XPATH, "//button[text()='Sign out']").click()
    browser.get(f"{standing.url}/mlflow/")
    assert browser.current_url == f"{standing.url}/"


def _ask(browser: webdriver.Chrome, method: str, path: str, body: object) -> tuple[int, list[dict[str, str]]]:
    """What a script of MLflow's page is answered: the status, and the run's info if it is one."""
    script = """
        const [method, path, body, done] = arguments
        fetch('ajax-api/2.0/mlflow/' + path, {method, body: body && JSON.stringify(body)})
            .then(async answer => done([answer.status, await answer.json()]))
    """
    status, found = browser.execute_async_script(script, method, path, body)
    return status, [found["run"]["info"]] if "run" in found else []


def _until(true: object) -> None:
    end = time.monotonic() + 300
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.2)
