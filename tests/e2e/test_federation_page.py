"""The federation page in a real browser, from a served API over TLS with a state database full of rows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

import server.api.door
import server.api.serving
import terminal.markup
from contract.verdicts import POOLED, FeatureVerdict, SiteVerdict, Verdict
from server.federation import running_federation
from server.line.processes import free_port
from server.schedule import RETRIES
from server.state.participation import SiteStatus, Step
from server.state.records import RoundRecord
from tests.e2e.browser import needs_browser, started
from tests.e2e.filled_state import SITES, Connected, fill, finish_round
from tests.e2e.standing_demo import PICTURES
from tests.e2e.test_report_page import Listener, attacks, listener
from tests.pictures import keep
from tests.server.api.conftest import Served, serving
from tests.server.federation import plan

__all__ = ["listener"]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900), needs_browser]

ROLES = ("scientist", "operator", "reviewer")
CONTRASTS = """
const bright = (colour) => {
  const [r, g, b] = colour.map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const rgb = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
const behind = (one) => {
  for (let here = one; here; here = here.parentElement) {
    const field = here.tagName === "g" ? here.querySelector(".field") : null;
    const style = getComputedStyle(field ?? here);
    const [r, g, b, a = 1] = rgb(field ? style.fill : style.backgroundColor);
    if (a > 0) return [r, g, b];
  }
  return [255, 255, 255];
};
const found = [];
for (const one of document.querySelectorAll("body *")) {
  const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!own || ["title", "SCRIPT"].includes(one.tagName)) continue;
  const style = getComputedStyle(one);
  const text = rgb(one instanceof SVGElement ? style.fill : style.color).slice(0, 3);
  const [low, high] = [bright(text), bright(behind(one))].sort((a, b) => a - b);
  found.push([(high + 0.05) / (low + 0.05), one.outerHTML.slice(0, 80)]);
}
return found;
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with started(tmp_path_factory.mktemp("browser"), any_certificate=True) as driver:
        yield driver


@pytest.fixture
def standing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(server.api.serving, "running_control", lambda _: Connected())
    with serving(tmp_path / "home", free_port()) as served:
        yield served


@pytest.fixture
def going(standing: Served) -> str:
    """The name of the run that goes on in a full state database."""
    return fill(standing.state, running_federation(standing.settings))


def until(true: Callable[[], bool], what: Callable[[], str]) -> None:
    end = time.monotonic() + 300
    while not true():
        assert time.monotonic() < end, what()
        time.sleep(0.2)


def text_of(page: webdriver.Chrome) -> str:
    return str(page.execute_script("return document.body.innerText"))


def shows(page: webdriver.Chrome, *words: str) -> None:
    until(lambda: all(word in text_of(page) for word in words), lambda: f"not {words}:\n{text_of(page)}")


def sign_in(page: webdriver.Chrome, served: Served, token: str) -> None:
    page.delete_all_cookies()
    page.get(served.url)
    page.delete_all_cookies()
    page.get(served.url)
    page.find_element(By.ID, "token").send_keys(token)
    page.find_element(By.CSS_SELECTOR, "button").click()


def signed_in(page: webdriver.Chrome, served: Served, role: str = "scientist") -> None:
    sign_in(page, served, served.people.add(f"ada-{role}", role))  # type: ignore[arg-type]
    shows(page, "Federation", f"ada-{role} ({role})")


def section(page: webdriver.Chrome, name: str) -> str:
    return str(page.execute_script("return document.getElementById(arguments[0]).innerText", name))


def errors(page: webdriver.Chrome) -> list[str]:
    found: list[dict[str, Any]] = page.get_log("browser")  # type: ignore[no-untyped-call]
    return [entry["message"] for entry in found if entry["level"] == "SEVERE"]


def test_a_wrong_token_is_one_sentence_and_the_right_one_opens_the_page(
    standing: Served, going: str, page: webdriver.Chrome
) -> None:
    token = standing.people.add("ada", "scientist")
    sign_in(page, standing, token[:-1])
    shows(page, "This token is not good: ask the operator for another.")
    assert going not in page.page_source
    assert not page.get_cookies()
    page.find_element(By.ID, "token").send_keys(token)
    page.find_element(By.CSS_SELECTOR, "button").click()
    shows(page, "ada (scientist)", going)
    (cookie,) = page.get_cookies()
    assert cookie["name"].startswith("__Host-")
    assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (True, True, "Strict")
    assert 0 < cookie["expiry"] - time.time() <= 8 * 3600 + 5
    assert page.execute_script("return document.cookie") == ""
    assert token not in page.current_url + page.page_source
    assert token not in standing.log
    page.find_element(By.XPATH, "//button[text()='Sign out']").click()
    shows(page, "Your token")
    page.add_cookie({key: cookie[key] for key in ("name", "value", "secure", "httpOnly", "path")})
    page.get(standing.url)
    shows(page, "Your token")  # the cookie of an ended session is worth nothing


def test_each_part_shows_what_the_state_holds(standing: Served, going: str, page: webdriver.Chrome) -> None:
    errors(page)
    signed_in(page, standing)
    sites = section(page, "sites")
    for name, rows in SITES.items():
        assert name in sites
        assert f"{rows:,}" in sites
    assert sites.count("● connected") == 3
    assert sites.count("○ not connected") == 1
    assert "ε 2.18 at δ 1e-05 by record, on " in sites
    assert "ε 1.4" not in sites  # an older word of the same ledger
    assert "waits to be let in" in sites
    assert "SHA256:q0mX" in sites
    assert sites.index("island-hospital") < sites.index("lake-clinic")
    now = section(page, "runs-now")
    assert going in now
    assert "1 of 10 rounds" in now
    assert "not connected" in now
    queue = section(page, "queue")
    assert queue.index("ben") < queue.index("eva")
    assert going not in queue
    drift = page.find_element(By.CSS_SELECTOR, "svg.drift")
    fields = [one.text for one in drift.find_elements(By.CSS_SELECTOR, "g text")]
    assert fields == [
        *("quiet", "quiet", "quiet", "not judged", "no answer", "quiet"),
        *("quiet", "quiet", "quiet", "not judged", "quiet", "drift"),
        *("quiet", "quiet", "drift", "not judged", "quiet", "drift"),
        *("quiet", "quiet", "quiet", "not judged", "quiet", "quiet"),
        *("quiet", "quiet", "quiet", "not judged", "quiet", "drift"),
    ]
    assert [one.text for one in drift.find_elements(By.CSS_SELECTOR, "text.site")] == [*sorted(SITES), POOLED]
    page.find_element(By.CSS_SELECTOR, "#drift summary").click()
    shows(page, "pressure", "watch: an alarm of one site alone")
    schedules = section(page, "schedules")
    assert f"not judged\t{1 + len(RETRIES)}\t" in schedules
    assert "too few sites answered: 1, and 3 are needed" in schedules
    assert "waits for" in schedules
    decisions = section(page, "decisions")
    assert decisions.index("version 2") < decisions.index("version 1")
    assert "rita" in decisions
    assert "10 of 10" in section(page, "runs")
    assert not errors(page)


def test_a_round_appears_without_a_reload_and_leaves_what_was_opened_open(
    standing: Served, going: str, page: webdriver.Chrome
) -> None:
    signed_in(page, standing)
    page.find_element(By.CSS_SELECTOR, "#drift summary").click()
    page.execute_script("window.same = true")
    shows(page, "1 of 10 rounds")
    finish_round(standing.state, going, 2)
    shows(page, "2 of 10 rounds")
    until(
        lambda: (
            f"Round 2 of {going}" in page.execute_script("return document.getElementById('told').textContent")
        ),  # the event's own words
        lambda: str(page.execute_script("return document.getElementById('told').textContent")),
    )
    standing.state.record_decision(
        "heart-risk", window="w", kind="watch", subject="retraining", by="policy", reason="just now"
    )
    standing.state.finish_run(going, "partial", error="east-clinic: not connected in round 1")
    shows(page, "No run goes on.", "just now", "east-clinic: not connected in round 1")
    assert page.execute_script("return window.same")
    assert page.find_elements(By.CSS_SELECTOR, "#drift details[open]")


def test_a_session_that_ends_ends_the_page(standing: Served, going: str, page: webdriver.Chrome) -> None:
    signed_in(page, standing)
    shows(page, going)
    standing.people.revoke("ada-scientist")
    shows(page, "Your token")
    assert going not in page.page_source


def test_nobody_can_change_anything_from_the_page(
    standing: Served, going: str, page: webdriver.Chrome
) -> None:
    for role in ROLES:
        signed_in(page, standing, role)
        forms = page.find_elements(By.TAG_NAME, "form")
        assert [form.get_attribute("action") for form in forms] == [f"{standing.url}/sign-out"]
        assert len(page.find_elements(By.CSS_SELECTOR, "button, input, select, textarea")) == 1
        stopped = page.execute_async_script(
            "const [run, done] = arguments;"
            "fetch(`/v1/runs/${run}/stop`, {method: 'POST'}).then((answer) => done(answer.status))", going
        )  # fmt: skip
        assert stopped in (401, 429)
    assert standing.submissions.get(going).stopped_by == ""  # type: ignore[union-attr]


def test_no_request_leaves_the_servers_address(standing: Served, going: str, page: webdriver.Chrome) -> None:
    page.get("about:blank")
    page.get_log("performance")  # type: ignore[no-untyped-call]
    signed_in(page, standing)
    finish_round(standing.state, going, 2)
    shows(page, "2 of 10 rounds")
    found = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]  # type: ignore[no-untyped-call]
    asked = [one["params"]["request"]["url"] for one in found if one["method"] == "Network.requestWillBeSent"]
    assert any(url.endswith("/events") for url in asked)
    assert any(url.endswith("/page.js") for url in asked)
    assert {url[: len(standing.url) + 1] for url in asked} == {f"{standing.url}/"}


def hostile(served: Served, sly: tuple[str, ...]) -> None:
    """Whatever a name or a sentence may come from holds an attack."""
    state = served.state
    for number, text in enumerate(sly):
        run = f"r{number}{text}"
        state.record_site(text, node_id=100 + number, stated_rows=5)
        state.start_run(run, experiment=plan(), job="train", trigger=text, code_hash="c")
        status = SiteStatus(state="connected", reason=text)
        state.record_participation(Step(run=run, kind="train", number=1), {text: status})
        record = RoundRecord(round=1, cohort=(text,), counted=(text,), failures={text: text}, seconds=1.0)
        state.save_round(run, record, checkpoint=b"c")
        if number % 2:
            state.finish_run(run, "failed", error=text)
        state.record_decision(text[:100], window=text, kind="watch", subject=text, by=text, reason=text)
        site = SiteVerdict(
            site=text, features=(FeatureVerdict(feature=text, p_value=0.0, distance=1.0, drifted=True),)
        )
        verdict = Verdict(
            window=text, reference_window=text, false_alarm_rate=0.01, sites=(site,), pooled=site
        ).to_json()
        state.save_verdict(f"{number}{text}"[:100], window=text, verdict=json.loads(verdict), alarm=True)


def ran(page: webdriver.Chrome, served: Served) -> bool:
    """Look at the page with everything unfolded; says whether anything of the attacks ran."""
    token = served.people.add('<img src=x onerror="document.documentElement.dataset.ran=1">', "operator")
    sign_in(page, served, token)
    shows(page, "(operator)")
    page.execute_script("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    time.sleep(8)  # the page is fetched anew once; nothing tells that nothing more will run
    return bool(page.execute_script("return 'ran' in document.documentElement.dataset"))


def test_names_with_markup_are_text(standing: Served, page: webdriver.Chrome, listener: Listener) -> None:
    listener.asked.clear()
    hostile(standing, attacks(listener.address))
    errors(page)
    assert not ran(page, standing)
    assert "<script>" in text_of(page)
    assert "<img src=x onerror=" in text_of(page)
    assert len(page.find_elements(By.CSS_SELECTOR, "img, iframe, base, main script")) == 0
    assert not any("Content Security Policy" in one for one in errors(page))
    assert not listener.asked


def test_sequences_that_steer_and_turn_are_shown_as_signs(standing: Served, page: webdriver.Chrome) -> None:
    standing.state.record_site("north\x1b[2J\u202egnp\n", node_id=5, stated_rows=1)
    signed_in(page, standing)
    assert "north\\x1b[2J\\u202egnp\\n" in section(page, "sites")


def test_the_policy_alone_stops_what_is_not_escaped(
    standing: Served, page: webdriver.Chrome, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener.asked.clear()
    hostile(standing, attacks(listener.address)[:3])
    monkeypatch.setattr(terminal.markup, "escape", str)
    assert not ran(page, standing)
    assert any("Content Security Policy" in one for one in errors(page))
    assert not listener.asked


def test_the_attack_succeeds_without_both(
    standing: Served, page: webdriver.Chrome, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the two tests above could not fail."""
    hostile(standing, attacks(listener.address)[:3])
    monkeypatch.setattr(terminal.markup, "escape", str)
    monkeypatch.delitem(server.api.door._SAFE, "content-security-policy")
    assert ran(page, standing)


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (360, "dark"),
        (1400, "light"),
        pytest.param(360, "light", marks=pytest.mark.long),
        pytest.param(1400, "dark", marks=pytest.mark.long),
    ],
)
def test_it_can_be_read_on_a_phone_and_in_the_dark(
    standing: Served, going: str, page: webdriver.Chrome, scheme: str, width: int
) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        sign_in(page, standing, "wrong")
        low = page.execute_script(CONTRASTS)
        signed_in(page, standing)
        page.find_element(By.CSS_SELECTOR, "#drift summary").click()
        low += page.execute_script(CONTRASTS)
        assert len(low) > 200
        assert [one for one in low if one[0] < 4.5] == []
        ground = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_keyboard_and_a_screen_reader_find_their_way(
    standing: Served, going: str, page: webdriver.Chrome
) -> None:
    del going
    page.get(standing.url)
    page.delete_all_cookies()
    page.get(standing.url)
    assert page.find_element(By.CSS_SELECTOR, "label").get_attribute("for") == "token"
    signed_in(page, standing)
    assert page.find_element(By.TAG_NAME, "html").get_attribute("lang") == "en"
    for one in page.find_elements(By.CSS_SELECTOR, "table"):
        assert one.find_elements(By.CSS_SELECTOR, "caption")
        assert one.find_elements(By.CSS_SELECTOR, "th[scope=col]")
        assert len(one.find_elements(By.CSS_SELECTOR, "tbody th[scope=row]")) == len(
            one.find_elements(By.CSS_SELECTOR, "tbody tr")
        )
    for one in page.find_elements(By.CSS_SELECTOR, "section"):
        named = one.get_attribute("aria-labelledby")
        assert named
        assert page.find_element(By.ID, named).text
    nodes = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = [node["role"]["value"] for node in nodes if not node["ignored"]]
    assert {"main", "banner", "navigation", "table", "columnheader", "rowheader", "status"} <= set(roles)
    page.execute_script("document.querySelector('nav a').focus()")
    assert page.execute_script("return document.activeElement.matches(':focus')")
    page.find_element(By.CSS_SELECTOR, "#drift summary").send_keys("\ue007")  # Enter
    assert page.find_elements(By.CSS_SELECTOR, "#drift details[open]")


def test_the_picture_of_the_guide(
    standing: Served, going: str, page: webdriver.Chrome, tmp_path: Path
) -> None:
    def size(height: int) -> None:
        metrics = {"width": 1200, "height": height, "deviceScaleFactor": 1, "mobile": False}
        page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    size(4000)  # without a scroll bar, which would make the page narrower
    try:
        sign_in(page, standing, standing.people.add("ada", "scientist"))
        shows(page, going)
        foot = "return document.querySelector('footer').getBoundingClientRect().bottom + scrollY"
        size(int(page.execute_script(foot)) + 40)
        picture = tmp_path / "federation.png"
        assert page.save_screenshot(str(picture))
        if PICTURES is not None:
            keep(picture, PICTURES, "federation.png")
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
