"""A drift report in a real browser: what rows and columns hold is shown, and runs as nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from selenium import webdriver
from selenium.common.exceptions import ElementClickInterceptedException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

import monitoring.report
from clients.mechanisms.report_files import INDEX, ReportRecord, record
from contract.experiment import CategoricalFeature, Drift, Label, NumericFeature, Task
from monitoring.report import write_report
from monitoring.report_page import safe_page
from tests.e2e.browser import needs_browser, see

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    needs_browser,
    pytest.mark.xdist_group("evidently"),
    pytest.mark.skipif(find_spec("evidently") is None, reason="Evidently is not installed"),
]

RUN = "document.documentElement.dataset.ran = 'yes'; fetch('ADDRESS')"


class Listener:
    """A server on this machine, and what it was asked for."""

    def __init__(self, server: HTTPServer, asked: list[str]) -> None:
        self.address = f"http://127.0.0.1:{server.server_address[1]}/"
        self.asked = asked


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(204)
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Listener(server, asked)
    server.shutdown()
    server.server_close()
    thread.join()


def attacks(address: str) -> tuple[str, ...]:
    """As somebody would write them who may choose a value of a row, or a column's name."""
    run = RUN.replace("ADDRESS", address)
    return (
        f"</script><script>{run}</script>",
        f'<img src=x onerror="{run}">',
        f'<svg onload="{run}">',
        f'<a href="javascript:{run}">x</a>',
        f'<iframe srcdoc="<script>parent.{run}</script>"></iframe>',
        f"<!--<script>{run}//",
        f'";{run};//',
        f"\u2028{run}//",
        f"</ScRiPt ><script>{run}</script>",
        f"<link rel=stylesheet href={address}><base href={address}>",
        f"<meta http-equiv=refresh content=0;{address}>",
    )


def hostile_report(path: Path, address: str) -> None:
    sly = attacks(address)
    # `model_construct`: whatever an experiment's file may name today
    task = Task.model_construct(
        label=Label.model_construct(column="ill" + sly[0], classes=("no", "yes" + sly[0])),
        features=(
            *(NumericFeature.model_construct(name=f"x{text}", kind="numeric", low=0, high=1) for text in sly),
            CategoricalFeature.model_construct(name="plan", kind="categorical", categories=sly),
        ),
    )

    def rows(seed: int) -> pd.DataFrame:
        rng = np.random.default_rng(seed)
        columns: dict[str, Any] = {f"x{text}": rng.random(200) for text in sly}
        columns["plan"] = rng.choice(sly, 200)
        columns["ill" + sly[0]] = rng.choice(["no", "yes" + sly[0], *sly], 200)
        return pd.DataFrame(columns)

    write_report(rows(1), rows(2), task=task, drift=Drift(), path=path, rng=np.random.default_rng(0))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, listener: Listener) -> str:
    """Such a report: Evidently takes seconds of a processor for each."""
    path = tmp_path_factory.mktemp("report") / "hostile.html"
    hostile_report(path, listener.address)
    return path.read_text(encoding="utf-8")


def press(browser: webdriver.Chrome, button: WebElement) -> None:
    """Click on it, once no drawing that still unfolds lies over it: an intercepted click does nothing."""

    def clicked(_: webdriver.Chrome) -> bool:
        button.click()
        return True

    wait = WebDriverWait(browser, 60, ignored_exceptions=[ElementClickInterceptedException])
    wait.until(clicked, "a button stays under a drawing")


def look(browser: webdriver.Chrome, path: Path, *words: str) -> bool:
    """Open the page, unfold its rows and its tests; says whether anything of the attacks ran."""
    browser.get("about:blank")
    see(browser, path.as_uri(), *words)
    if words:
        for button in browser.find_elements(By.CSS_SELECTOR, "tbody tr button"):
            press(browser, button)
        end = time.monotonic() + 600
        while not browser.find_elements(By.CSS_SELECTOR, "svg.main-svg"):
            assert time.monotonic() < end, "no picture is drawn"
            time.sleep(0.1)
        for button in browser.find_elements(By.XPATH, "//button[text()='Tests']"):
            press(browser, button)
    time.sleep(0.5)  # nothing tells that nothing more will run
    return bool(browser.execute_script("return document.documentElement.dataset.ran === 'yes'"))


def test_nothing_of_rows_and_columns_runs(
    browser: webdriver.Chrome,
    listener: Listener,
    hostile: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not even where the labels reach Evidently as they are, and only the page's own defence is left."""
    (tmp_path / "labels.html").write_text(hostile, encoding="utf-8")
    monkeypatch.setattr(monitoring.report, "_label", str)
    hostile_report(tmp_path / "raw.html", listener.address)
    listener.asked.clear()
    for name in ("labels.html", "raw.html"):
        assert not look(browser, tmp_path / name, "Data Drift Summary", "all of them drawn")
        blocked = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]  # type: ignore[no-untyped-call]
        assert not blocked, "the page's own scripts and styles are let through"
    assert not listener.asked


def test_the_attack_succeeds_on_evidentlys_own_page(
    browser: webdriver.Chrome, listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the test above could not fail."""
    monkeypatch.setattr(monitoring.report, "_label", str)
    monkeypatch.setattr(monitoring.report, "safe_page", lambda html, _: html)
    hostile_report(tmp_path / "raw.html", listener.address)
    listener.asked.clear()
    assert look(browser, tmp_path / "raw.html")
    assert listener.asked


def test_the_policy_alone_stops_a_script_that_reached_the_page(
    browser: webdriver.Chrome, listener: Listener, hostile: str, tmp_path: Path
) -> None:
    path = tmp_path / "w.html"
    path.write_text(
        hostile.replace("</body>", "".join(attacks(listener.address)[:5]) + "</body>"), encoding="utf-8"
    )
    listener.asked.clear()
    assert not look(browser, path)
    blocked = " ".join(entry["message"] for entry in browser.get_log("browser"))  # type: ignore[no-untyped-call]
    assert "Content Security Policy" in blocked
    assert not listener.asked


def test_the_notes_above_the_drawings_are_text(
    browser: webdriver.Chrome, listener: Listener, hostile: str, tmp_path: Path
) -> None:
    figures = hostile[hostile.index("<script>") : hostile.index("</head>")]
    scripts = hostile[hostile.index("<script>var global") : hostile.index("</body>")]
    bare = f'<html><head><meta charset="UTF-8">{figures}</head><body>{scripts}</body></html>'
    (tmp_path / "n.html").write_text(safe_page(bare, attacks(listener.address)), encoding="utf-8")
    assert not look(browser, tmp_path / "n.html")
    assert "onerror" in browser.find_element(By.TAG_NAME, "body").text


def test_the_list_of_reports_is_text(browser: webdriver.Chrome, listener: Listener, tmp_path: Path) -> None:
    listener.asked.clear()
    for number, attack in enumerate(attacks(listener.address)):
        report = ReportRecord(
            file=f"20261124T0000{number:02d}Z-00.html",
            made="2026-11-24",
            experiment=attack,
            run=attack,
            windows=(attack,),
            reference_windows=(attack,),
            drifted=(attack,),
        )
        record(tmp_path, report)
    browser.get((tmp_path / INDEX).as_uri())
    see(browser, (tmp_path / INDEX).as_uri(), "Drift reports", "onerror")
    assert not browser.execute_script("return document.documentElement.dataset.ran")
    assert len(browser.find_elements(By.TAG_NAME, "tr")) == 1 + len(attacks(""))
    assert not listener.asked
