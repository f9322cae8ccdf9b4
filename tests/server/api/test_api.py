"""Who may ask the API what, and what it makes of requests that are made to harm."""

from __future__ import annotations

import json
import socket
import ssl
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text

import server.api.app
import server.api.door
from contract.errors import InputError
from contract.experiment import Experiment
from contract.federation_api import MOST_BODY
from contract.mandate import Mandate, Ranges, mandate_for, public_key_of, sign_mandate
from contract.names import name_run
from contract.standing import Standing
from server.registry.registry import Registry
from server.state.records import ScheduleRecord
from server.state.schedules import Schedules
from server.state.submissions import MOST_QUEUED
from tests.server.api.conftest import Served, submission

KEY = Ed25519PrivateKey.generate()
ROLES = ("scientist", "operator", "reviewer")


def test_every_endpoint_asks_for_a_token_and_the_right_role(served: Served, experiment: Experiment) -> None:
    tokens = {role: served.people.add(role, role) for role in ROLES}  # type: ignore[arg-type]
    served.state.admit_site("north", federation="standing", node_id=1, key="k", stated_rows=50)
    with served.client() as nobody:
        paths = nobody.get("/openapi.json").json()["paths"]
        listed = [(method.upper(), path) for path, methods in paths.items() for method in methods]
        assert len(listed) == 31
        assert all(path.startswith("/v1/") for _, path in listed)
        assert {path for method, path in listed if method == "POST"} == set(WRITERS)
        for method, path in listed:
            refused = nobody.request(method, filled(path, "fake-run"))
            assert refused.status_code in (401, 429), path
            assert refused.json().keys() == {"what", "where", "remedy"}
    registered(served, experiment)
    served.state.start_run("of-1", experiment=experiment, job="train", trigger="t", code_hash="c0de")
    served.state.link_run("of-1", model_version=1)
    for role, token in tokens.items():
        with served.client(token) as person:
            assert person.get("/v1/whoami").json()["role"] == role
            for method, path in listed:
                run = served.submissions.add(experiment, person="somebody", federation="standing").run
                served.submissions.stop(run, by="somebody")
                watched(served, experiment, kept=path != "/v1/schedules")
                answer = person.request(
                    method,
                    filled(path, run),
                    json=BODIES.get(path, lambda _: None)(experiment) if method == "POST" else None,
                    params={"experiment": "fake"} if path == "/v1/verdicts" else None,
                )
                allowed = method == "GET" or role in WRITERS[path]
                own = role == "scientist" and path.startswith("/v1/runs/{name}/")
                expected = {403} if not allowed or (own and method == "POST") else {200, 202}
                if path.endswith("/stop") and expected != {403}:
                    expected = {409}
                if path.endswith(("/sign", "/drift-checks", "/refuse", "/rollback")) and expected != {403}:
                    expected = {400}  # nobody has signed it; what was just approved is in service
                assert answer.status_code in expected, (role, method, path, answer.text)


WRITERS = {
    "/v1/runs": ("scientist", "operator"),
    "/v1/ranges": ("scientist", "operator"),
    "/v1/signing-key": ("scientist", "operator"),
    "/v1/runs/{name}/stop": ("scientist", "operator"),
    "/v1/runs/{name}/resume": ("scientist", "operator"),
    "/v1/drift-checks": ("scientist", "operator"),
    "/v1/schedules": ("operator",),
    "/v1/schedules/{experiment}/sign": ("scientist", "operator"),
    "/v1/schedules/{experiment}/unsign": ("operator",),
    "/v1/schedules/{experiment}/pause": ("operator",),
    "/v1/schedules/{experiment}/resume": ("operator",),
    "/v1/schedules/{experiment}/remove": ("operator",),
    "/v1/models/{model}/versions/{version}/approve": ("reviewer",),
    "/v1/models/{model}/versions/{version}/refuse": ("reviewer",),
    "/v1/models/{model}/versions/{version}/rollback": ("reviewer",),
}
BODIES: dict[str, Callable[[Experiment], dict[str, Any]]] = {
    "/v1/runs": submission,
    "/v1/signing-key": lambda _: {"key": public_key_of(KEY)},
    "/v1/ranges": lambda experiment: submission(experiment, features=["x0"], epsilon=0.1, share=0.01),
    "/v1/schedules": lambda experiment: {"experiment": experiment.model_dump_json(), "every": "week"},
    "/v1/drift-checks": lambda plan: {"experiment": plan.model_dump_json(), "window": "2026-W05"},
    "/v1/schedules/{experiment}/sign": lambda _: {"mandate": "x"},
    "/v1/models/{model}/versions/{version}/approve": lambda _: {"reason": "better"},
    "/v1/models/{model}/versions/{version}/refuse": lambda _: {"reason": "worse"},
    "/v1/models/{model}/versions/{version}/rollback": lambda _: {"reason": "worse"},
}


def filled(path: str, run: str) -> str:
    names = {"name": run, "experiment": "fake", "model": "fake", "version": "1", "site": "north"}
    return path.format(**names)


def watched(served: Served, experiment: Experiment, *, kept: bool) -> None:
    """A schedule of the experiment; or none."""
    schedules = Schedules(served.state.database)
    with suppress(InputError):
        schedules.remove(experiment.name)
    if kept:
        schedules.add(ScheduleRecord.of(experiment, every="week", first="2026-W05"))


def registered(served: Served, experiment: Experiment, description: str = "its passport") -> None:
    """Version 1 of a model."""
    registry = Registry(served.settings.tracking_uri, served.settings.artifact_root)
    run = registry.start_run(experiment, run_name="first")
    arrays = {"layers.0.weight": np.zeros((1, 3), np.float32), "layers.0.bias": np.zeros(1, np.float32)}
    tags = {"tidegate.run": "first", "tidegate.windows": "[]", "tidegate.private": "yes"}
    registry.register(experiment.name, run, arrays, experiment=experiment, description=description, tags=tags)


def test_a_token_that_is_not_good_is_told_nothing_and_kept_out_of_the_log(served: Served) -> None:
    good, revoked = served.people.add("ada", "scientist"), served.people.add("ben", "operator")
    expired = served.people.add("eve", "operator", expires=datetime.now(UTC) - timedelta(seconds=1))
    served.people.revoke("ben")
    answers = []
    for shown in (
        f"Bearer {revoked}", f"Bearer {expired}", f"Bearer {good[:-1]}", f"Bearer  {good}",
        f"Basic {good}", good, "Bearer", f"Bearer {'x' * 20_000}",
    ):  # fmt: skip
        with served.client(headers={"Authorization": shown}) as stranger:
            answers.append(stranger.get("/v1/whoami"))
    assert {(one.status_code, one.text) for one in answers} == {(401, answers[0].text)}
    with served.client() as stranger:
        assert stranger.get("/v1/whoami", params={"token": good, "access_token": good}).status_code == 401
    assert served.log.count("has no good token") == len(answers) + 1
    assert not any(token in served.log for token in (good, revoked, expired))
    with served.state.database.read() as connection:
        kept = str(connection.execute(text("SELECT * FROM people")).all())
    assert good not in kept


def test_a_revoked_token_that_is_made_anew_does_not_come_back(served: Served) -> None:
    old = served.people.add("ada", "scientist")
    with pytest.raises(InputError, match="has a token that is good"):
        served.people.add("ada", "operator")
    served.people.revoke("ada")
    new = served.people.add("ada", "reviewer")
    with served.client(old) as before, served.client(new) as after:
        assert before.get("/v1/whoami").status_code == 401
        assert after.get("/v1/whoami").json()["role"] == "reviewer"


def test_guesses_are_slowed_and_do_not_flood_the_log_nor_shut_others_out(served: Served) -> None:
    good = served.people.add("ada", "scientist")
    with served.client("guess") as stranger:
        codes = [stranger.get("/v1/runs").status_code for _ in range(40)]
    assert codes == [401] * 10 + [429] * 30
    assert served.log.count("no good token") == 10
    with served.client(good) as ada:
        assert ada.get("/v1/whoami").status_code == 200


def test_no_path_leads_round_the_door(served: Served) -> None:
    for path in (
        "/v1/../v1/whoami", "//v1/whoami", "/V1/whoami", "/./v1/whoami", "/docs/../v1/whoami", "/v1%2fwhoami",
        "/%76%31/whoami", "/v1/whoami/", "/v1", "/authority.pem/../v1/whoami", "/v1;/whoami", "\\v1\\whoami",
        "/certificates/ca.key", "/authority.pem%00", "/..%2fsuperlink.secret",
    ):  # fmt: skip
        answer = _raw(served, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert answer.split(b" ")[1] in (b"400", b"401", b"404", b"429"), (path, answer)
        assert b"scientist" not in answer
    token = served.people.add("ada", "scientist")
    with served.client(token) as ada:
        for name in (
            "..",
            "..%2f..",
            "a%2fb",
            "%00",
            "%1b[2J",
            "x" * 3000,
            "%f0%9f%98%80",
            "'; DROP TABLE runs",
        ):
            assert ada.get(f"/v1/runs/{name}").status_code == 404
            assert ada.post(f"/v1/runs/{name}/stop").status_code in (404, 405)
            assert ada.get(f"/v1/runs/{name}/events").status_code == 404
        for query in ("limit=0", "limit=201", "limit=-1", "skip=-1", "skip=1e9", "limit=x", "mine=maybe"):
            refused = ada.get(f"/v1/runs?{query}")
            assert refused.status_code == 400
        assert ada.get("/v1/verdicts").status_code == 400
        assert ada.get("/v1/verdicts", params={"experiment": "../x"}).status_code == 400
        assert ada.get("/v1/runs?" + "a=b&" * 1000).status_code == 414


ODD: list[bytes] = [
    b"",
    b"null",
    b"[]",
    b"{",
    b"\xff\xfe",
    b"\x00",
    b"[" * 100_000,
    b'{"experiment":' * 50_000,
    b'{"experiment": 7}',
    b'{"experiment": ""}',
    b'{"experiment": "x", "owner": "somebody"}',
    b'{"experiment": "name = 1"}',
    b'{"experiment": "\\ud800"}',
    b'{"experiment": "a = ' + b"[" * 100_000 + b'"}',
    b'{"experiment": "a = ' + b"9" * 100_000 + b'"}',
    b'{"experiment": "' + b"a." * 100_000 + b'a = 1"}',
    b'{"experiment": "{' + b'\\"a\\":{' * 50_000 + b'"}',
    b'{"experiment": "{\\"name\\": NaN}"}',
]


@pytest.mark.parametrize("body", ODD, ids=range(len(ODD)))
def test_an_odd_body_is_refused_in_words_and_changes_nothing(served: Served, body: bytes) -> None:
    token = served.people.add("ada", "scientist")
    with served.client(token) as ada:
        refused = ada.post("/v1/runs", content=body)
        assert refused.status_code == 400, refused.text
        assert len(refused.content) < 5000
        assert refused.json()["what"]
        assert ada.get("/v1/runs").json() == {"runs": [], "more": False}


def test_windows_and_names_are_those_of_the_contract(served: Served, experiment: Experiment) -> None:
    token = served.people.add("ada", "scientist")
    with served.client(token) as ada:
        windows: Any
        for windows in (["../x"], ["w1.0\n"], [7], "w1", ["\x1b[2J"], ["w"] * 1001, [["w1"]]):
            assert ada.post("/v1/runs", json=submission(experiment, windows=windows)).status_code == 400
        wide = experiment.model_dump_json().replace('"low":-1.0,"high":1.0', '"low":-1.0', 1)
        assert "high" in ada.post("/v1/runs", json={"experiment": wide}).json()["what"]
        taken = ada.post("/v1/runs", json=submission(experiment, windows=["w1", "2026-01"]))
        assert taken.status_code == 202
        detail = ada.get(f"/v1/runs/{taken.json()['run']}").json()
        assert (detail["windows"], detail["run"]["owner"]) == (["w1", "2026-01"], "ada")


def test_a_body_that_is_too_long_or_of_no_length_is_not_read(served: Served) -> None:
    token = served.people.add("ada", "scientist")
    head = f"POST /v1/runs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    for line, code in (
        (f"Content-Length: {MOST_BODY + 1}", b"413"),
        (f"Content-Length: {'9' * 40}", b"4"),
        (f"Content-Length: {'0' * 20}{MOST_BODY + 1}", b"400"),
        ("Transfer-Encoding: chunked", b"411"),
        ("Content-Length: -5", b"4"),
    ):
        answer = _raw(served, f"{head}{line}\r\n\r\n".encode())
        assert answer.split(b" ")[1].startswith(code), answer
    with served.client(token) as ada:
        assert ada.post("/v1/runs", content=b"x" * MOST_BODY).status_code == 400


@pytest.mark.parametrize("path", list(BODIES))
def test_a_token_that_is_revoked_while_the_body_comes_does_nothing(
    served: Served, experiment: Experiment, path: str
) -> None:
    registered(served, experiment)
    role = WRITERS[path][0]
    token = served.people.add("ada", role)  # type: ignore[arg-type]
    body = json.dumps(BODIES[path](experiment)).encode()
    head = (
        f"POST {filled(path, '')} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
        f"Expect: 100-continue\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    tls = ssl.create_default_context(cafile=str(served.files.authority))
    with (
        socket.create_connection(("127.0.0.1", served.file.api_port), timeout=300) as raw,
        tls.wrap_socket(raw, server_hostname="127.0.0.1") as line,
    ):
        line.sendall(head.encode())
        assert line.recv(1000).startswith(b"HTTP/1.1 100")  # the door has let it in
        served.people.revoke("ada")
        served.people.add("ada", role)  # type: ignore[arg-type]
        line.sendall(body)
        assert line.recv(1000).startswith(b"HTTP/1.1 401")
    assert served.submissions.page(skip=0, limit=1) == []
    assert served.state.decisions() == ()
    assert Schedules(served.state.database).all() == ()
    assert [one.signing_key for one in served.people.all()] == [None]


def test_a_body_that_does_not_come_holds_nothing_up(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.api.door, "_BODY_SECONDS", 0.5)
    token = served.people.add("ada", "scientist")
    head = (
        f"POST /v1/runs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 100\r\n\r\n"
    )
    assert _raw(served, head.encode() + b'{"expe').split(b" ")[1] == b"408"


def test_who_works_on_the_queue_is_woken_by_what_is_asked_and_by_nothing_else(
    served: Served, experiment: Experiment
) -> None:
    ada, ben = served.people.add("ada", "scientist"), served.people.add("ben", "scientist")
    with served.client(ada) as first, served.client(ben) as second:
        assert first.post("/v1/runs", json={"experiment": "{"}).status_code == 400
        assert not served.asked.is_set()
        run = first.post("/v1/runs", json=submission(experiment)).json()["run"]
        assert served.asked.is_set()
        served.asked.clear()
        first.get(f"/v1/runs/{run}")
        assert second.post(f"/v1/runs/{run}/stop").status_code == 403
        assert not served.asked.is_set()
        assert first.post(f"/v1/runs/{run}/stop").status_code == 202
        assert served.asked.is_set()


def test_one_person_cannot_fill_the_queue_for_all(served: Served, experiment: Experiment) -> None:
    ada, ben = served.people.add("ada", "scientist"), served.people.add("ben", "scientist")
    for _ in range(MOST_QUEUED):
        served.submissions.add(experiment, person="ada", federation="standing")
    with served.client(ada) as first, served.client(ben) as second:
        assert "wait in the queue" in first.post("/v1/runs", json=submission(experiment)).json()["what"]
        taken = second.post("/v1/runs", json=submission(experiment))
        assert taken.json()["place"] == 2
        page = first.get("/v1/runs", params={"limit": 7, "skip": 3}).json()
        assert [run["place"] for run in page["runs"]] == list(range(MOST_QUEUED - 1, MOST_QUEUED - 8, -1))
        assert page["more"]
        own = second.get("/v1/runs", params={"mine": True}).json()
        assert [run["name"] for run in own["runs"]] == [taken.json()["run"]]


def test_a_part_of_the_server_that_is_away_says_nothing_of_where_it_is(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contract.errors import StorageError
    from server.state.storage import State

    def away(*_: object, **__: object) -> None:
        raise StorageError("cannot be reached", where="postgresql://tidegate@db.internal/state")

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a row's value")

    token = served.people.add("ada", "scientist")
    with served.client(token) as ada:
        monkeypatch.setattr(State, "decisions", away)
        answer = ada.get("/v1/decisions")
        assert (answer.status_code, "internal" in answer.text) == (503, False)
        monkeypatch.setattr(State, "decisions", broken)
        answer = ada.get("/v1/decisions")
        assert (answer.status_code, "row" in answer.text) == (500, False)
        assert ada.get("/v1/whoami").status_code == 200
    assert "ZeroDivisionError" in served.log


def test_what_a_browser_gets_loads_nothing_and_runs_nothing(served: Served) -> None:
    with served.client() as browser:
        page = browser.get("/docs")
        assert "GET /v1/runs/{name}" in page.text
        assert "http" not in page.text.replace("HTTPS", "")
        assert "<script" not in page.text
        for path in ("/", "/docs", "/openapi.json", "/v1/runs"):
            headers = browser.get(path).headers
            assert headers["content-security-policy"].startswith("default-src 'none'")
            assert headers["cache-control"] == "no-store"
            assert "server" not in headers
        assert browser.post("/docs").status_code == 405


def test_plain_http_and_old_tls_get_no_answer(served: Served) -> None:
    with pytest.raises(httpx.HTTPError):
        httpx.get(served.url.replace("https", "http") + "/v1/whoami", trust_env=False)
    old = ssl.create_default_context(cafile=str(served.files.authority))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", served.file.api_port), timeout=60) as raw,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        old.wrap_socket(raw, server_hostname="127.0.0.1")


def _raw(served: Served, request: bytes) -> bytes:
    """What the server answers to these bytes, until it closes or says no more."""
    tls = ssl.create_default_context(cafile=str(served.files.authority))
    with (
        socket.create_connection(("127.0.0.1", served.file.api_port), timeout=60) as raw,
        tls.wrap_socket(raw, server_hostname="127.0.0.1") as line,
    ):
        line.sendall(request)
        answer, end = b"", time.monotonic() + 60
        while b"\r\n\r\n" not in answer and time.monotonic() < end:
            part = line.recv(65_536)
            if not part:
                break
            answer += part
    return answer


def test_json_answers_hold_no_number_that_json_has_not(served: Served, experiment: Experiment) -> None:
    token = served.people.add("ada", "scientist")
    served.state.save_verdict("fake", window="w1", verdict={"score": float("inf")}, alarm=True)
    served.state.record_decision(
        "fake", window="w1", kind="watch", subject="s\x1b[2J", by="policy", reason="r"
    )
    with served.client(token) as ada:
        found = json.loads(
            ada.get("/v1/verdicts", params={"experiment": "fake"}).text, parse_constant=pytest.fail
        )
        assert found["verdicts"][0]["verdict"] == {"score": None}
        assert ada.get("/v1/decisions").json()["decisions"][0]["by"] == "policy"
        assert "\x1b" not in ada.get("/v1/decisions").text


def mandate(experiment: Experiment, **more: Any) -> Mandate:
    values = {"run": name_run(experiment.name), "windows": ("w1",), "scientist": "ada", "code": "c" * 64}
    expires = datetime.now(UTC) + timedelta(days=1)
    return mandate_for(experiment, **{**values, "authority": "a" * 64, "expires": expires, **more})


WEEKS = Standing(every="week", first="2026-W05", last="2026-W20", tries=2, drift_epsilon=0.5)


def of_schedule(experiment: Experiment, key: Ed25519PrivateKey = KEY, **more: Any) -> str:
    return sign_mandate(mandate(experiment, **{"windows": (), "covers": WEEKS, **more}), key)


def test_a_schedule_is_signed_when_it_is_added_or_later(served: Served, experiment: Experiment) -> None:
    kept = Schedules(served.state.database)
    new = {"experiment": experiment.model_dump_json(), "every": "week", "first": "2026-W05"}
    other = Ed25519PrivateKey.generate()
    with served.client(served.people.add("ada", "operator")) as ada:
        signed = of_schedule(experiment)
        early = ada.post("/v1/schedules", json={**new, "mandate": signed})
        assert "not the key that you registered" in early.json()["what"]
        ada.post("/v1/signing-key", json={"key": public_key_of(KEY)})
        added = ada.post("/v1/schedules", json={**new, "mandate": signed})
        assert added.json()["schedule"]["signed"].startswith("by ada for 2026-W05 to 2026-W20, until ")
        assert kept.get("fake").mandate == signed
        wrong = {
            "a run's": of_schedule(experiment, covers=None),
            "another's name": of_schedule(experiment, scientist="eve"),
            "another experiment": of_schedule(experiment.model_copy(update={"name": "other"})),
            "another kind of window": of_schedule(
                experiment,
                covers=WEEKS.model_copy(update={"every": "month", "first": "2026-01", "last": "2026-02"}),
            ),
            "a run's name of any kind": of_schedule(experiment, run="fake-2026-W05"),
        }
        for one in wrong.values():
            refused = ada.post("/v1/schedules/fake/sign", json={"mandate": one})
            assert (refused.status_code, "something else" in refused.json()["what"]) == (400, True)
        assert ada.post("/v1/schedules/never/sign", json={"mandate": signed}).status_code == 400
        assert kept.get("fake").mandate == signed
    with served.client(served.people.add("bea", "scientist")) as bea:
        bea.post("/v1/signing-key", json={"key": public_key_of(other)})
        theirs = of_schedule(experiment, other, scientist="bea")
        refused = bea.post("/v1/schedules/fake/sign", json={"mandate": theirs})
        assert (refused.status_code, refused.json()["what"][:16]) == (403, "ada has signed i")
        kept.sign("fake", of_schedule(experiment, expires=datetime.now(UTC) - timedelta(days=1)))
        assert bea.get("/v1/schedules").json()["schedules"][0]["signed"].endswith("(over)")
        told = bea.post("/v1/schedules/fake/sign", json={"mandate": theirs})
        assert (told.status_code, told.json()["signed"][:6]) == (202, "by bea")
    assert kept.get("fake").mandate == theirs


def test_whoever_signs_first_keeps_nobody_out_whose_model_it_is(
    served: Served, experiment: Experiment
) -> None:
    """Eve, whom no site trusts, signs Ada's schedule before Ada does, for as long as she likes."""
    watched(served, experiment, kept=True)
    kept, state, eves = Schedules(served.state.database), served.state, Ed25519PrivateKey.generate()
    for_ever = datetime.now(UTC) + timedelta(days=36_500)
    theirs = of_schedule(experiment, eves, scientist="eve", expires=for_ever)
    with (
        served.client(served.people.add("ada", "scientist")) as ada,
        served.client(served.people.add("eve", "scientist")) as eve,
    ):
        ada.post("/v1/signing-key", json={"key": public_key_of(KEY)})
        eve.post("/v1/signing-key", json={"key": public_key_of(eves)})
        assert eve.post("/v1/schedules/fake/sign", json={"mandate": theirs}).status_code == 202
        mine = of_schedule(experiment)
        no = ada.post("/v1/schedules/fake/sign", json={"mandate": mine})  # there is no model yet
        assert (no.status_code, no.json()["what"].startswith("eve has signed it")) == (403, True)
        assert no.json()["what"].endswith("can let you sign it (tidegate schedule unsign fake)")
        for person in (ada, eve):
            assert person.post("/v1/schedules/fake/unsign").status_code == 403
        with served.client(served.people.add("olga", "operator")) as olga:
            told = olga.post("/v1/schedules/fake/unsign")
            assert (told.status_code, told.json()["signed"], kept.get("fake").mandate) == (202, "", "")
            assert olga.post("/v1/schedules/never/unsign").status_code == 400
        assert ada.post("/v1/schedules/fake/sign", json={"mandate": mine}).status_code == 202
        assert eve.post("/v1/schedules/fake/sign", json={"mandate": theirs}).status_code == 403
        run = served.submissions.add(experiment, person="ada", federation="standing").run
        for name, version in ((run, 1), ("fake-w-challenger", 2)):
            state.start_run(name, experiment=experiment, job="train", trigger="t", code_hash="c0de")
            state.link_run(name, model_version=version, result=json.dumps({"windows": []}))
            state.record_decision(
                "fake", window="", kind="promote", subject=f"version {version}", by="p", reason="r"
            )
            told = ada.post("/v1/schedules/fake/sign", json={"mandate": mine})
            assert (told.status_code, told.json()["signed"][:6]) == (202, "by ada")
            refused = eve.post("/v1/schedules/fake/sign", json={"mandate": theirs})
            assert refused.status_code == 403
            assert "ada submitted the model that it watches" in refused.json()["what"]
        kept.sign("fake", "")
        assert eve.post("/v1/schedules/fake/sign", json={"mandate": theirs}).status_code == 403
        served.people.revoke("ada")  # who has left keeps nobody out
        assert eve.post("/v1/schedules/fake/sign", json={"mandate": theirs}).status_code == 202
    served.people.revoke("eve")
    with served.client(served.people.add("bea", "scientist")) as bea:
        other = Ed25519PrivateKey.generate()
        bea.post("/v1/signing-key", json={"key": public_key_of(other)})
        hers = of_schedule(experiment, other, scientist="bea")
        assert bea.post("/v1/schedules/fake/sign", json={"mandate": hers}).status_code == 202


def test_a_mandate_that_does_not_cover_the_model_in_service_is_refused(
    served: Served, experiment: Experiment
) -> None:
    watched(served, experiment, kept=True)
    state = served.state
    state.start_run("first", experiment=experiment, job="train", trigger="t", code_hash="c0de")
    state.link_run(
        "first", model_version=1, result=json.dumps({"windows": ["2026-W01", "2026-W02", "2026-W03"]})
    )
    state.record_decision("fake", window="", kind="promote", subject="version 1", by="p", reason="r")
    with served.client(served.people.add("ada", "scientist")) as ada:
        ada.post("/v1/signing-key", json={"key": public_key_of(KEY)})
        refused = ada.post("/v1/schedules/fake/sign", json={"mandate": of_schedule(experiment)}).json()
        assert "was trained on 2026-W01..2026-W03" in refused["what"]
        assert refused["remedy"] == "Sign with --trained-on 2026-W01..2026-W03"
        trained = ("2026-W01", "2026-W02", "2026-W03")
        good = of_schedule(experiment, covers=WEEKS.model_copy(update={"reference": trained}))
        assert ada.post("/v1/schedules/fake/sign", json={"mandate": good}).status_code == 202


def test_a_question_for_ranges_is_signed_as_it_is_asked(served: Served, experiment: Experiment) -> None:
    asked = {"features": ["x0"], "epsilon": 0.1, "share": 0.01}
    served.state.admit_site("north", federation="standing", node_id=1, key="k", stated_rows=50)
    run = name_run(f"{experiment.name}-ranges")

    def signed(**more: Any) -> str:
        ranges = Ranges(features=("x0",), epsilon=0.1)
        return sign_mandate(mandate(experiment, **{"run": run, "covers": ranges, **more}), KEY)

    with served.client(served.people.add("ada", "scientist")) as ada:
        ada.post("/v1/signing-key", json={"key": public_key_of(KEY)})
        body = submission(experiment, windows=["w1"], **asked)
        for wrong in (
            signed(covers=Ranges(features=("x0",), epsilon=0.2)),
            signed(covers=Ranges(features=("x1",), epsilon=0.1)),
            signed(covers=None),
            signed(run=name_run(experiment.name)),
        ):
            assert "something else" in ada.post("/v1/ranges", json={**body, "mandate": wrong}).json()["what"]
        good = signed()
        told = ada.post("/v1/ranges", json={**body, "mandate": good})
        assert told.json().get("run") == run, told.text
    kept = served.submissions.get(run)
    assert kept is not None
    assert kept.mandate == good


def test_a_signed_run_has_the_name_that_was_signed_and_keeps_its_mandate(
    served: Served, experiment: Experiment
) -> None:
    meant = mandate(experiment)
    signed = sign_mandate(meant, KEY)
    body = submission(experiment, windows=["w1"], mandate=signed)
    with served.client(served.people.add("ada", "scientist")) as ada:
        early = ada.post("/v1/runs", json=body)
        assert early.status_code == 400
        assert "not the key that you registered" in early.json()["what"]
        said = ada.post("/v1/signing-key", json={"key": f"{public_key_of(KEY)} ada@laptop"}).json()
        assert said["signing_key"] == ada.get("/v1/whoami").json()["signing_key"] == public_key_of(KEY)
        assert ada.post("/v1/runs", json=body).json()["run"] == meant.run
        again = ada.post("/v1/runs", json=body)
        assert (again.status_code, again.json()["what"]) == (400, "another run has that name")
        kept = served.submissions.get(meant.run)
        assert kept is not None
        assert kept.mandate == signed
        others = {
            "another run's name": mandate(experiment, run="fake-2026-W05"),
            "another's name": mandate(experiment, scientist="eve"),
            "other windows": mandate(experiment, windows=("w2",)),
            "another experiment": mandate(experiment.model_copy(update={"name": "other"})),
        }
        for one in others.values():
            refused = ada.post("/v1/runs", json={**body, "mandate": sign_mandate(one, KEY)})
            assert refused.status_code == 400
            assert "something else" in refused.json()["what"]
        for text in ("x", "{}", signed.replace("AAAA", "AAAB"), signed[:-3]):
            assert ada.post("/v1/runs", json={**body, "mandate": text}).status_code == 400
        for key in ("", "ssh-ed25519 AAAA", "x" * 201, 7):
            assert ada.post("/v1/signing-key", json={"key": key}).status_code == 400
    served.people.revoke("ada")
    with served.client(served.people.add("ada", "scientist")) as new:
        assert new.get("/v1/whoami").json()["signing_key"] is None
