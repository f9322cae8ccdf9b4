"""The inference service as a process: what it answers, and what becomes of those who want it broken."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.model_statement import STATEMENT_FILE
from contract.model_version import ARRAYS_FILE, GRAPH_FILE
from serving.prediction import Predictor
from tests.commands import tidegate as tidegate_there
from tests.inference.conftest import ROW, Federation, Running, Start, asked_without_end
from tests.serving.test_prediction import AGE, LABELS, SEX, experiment
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e


@pytest.fixture
def folder(tmp_path: Path, federation: Federation) -> Path:
    return federation.version(tmp_path / "visits-1")


def rows_of(running: Running, count: int) -> list[sqlite3.Row]:
    """The rows of the log, once there are so many."""
    wait_until(lambda: len(_rows_of(running)) == count, f"the log has {count} rows")
    return _rows_of(running)


def _rows_of(running: Running) -> list[sqlite3.Row]:
    with sqlite3.connect(running.home / "tidegate" / "predictions.db") as connection:
        connection.row_factory = sqlite3.Row
        return connection.execute("SELECT * FROM served_small ORDER BY served, answer, row").fetchall()


def test_a_row_is_told_what_the_model_tells_and_kept(folder: Path, start: Start) -> None:
    running = start(folder)
    assert running.told["engine"] == "onnxruntime CPUExecutionProvider"
    answer = running.predict(ROW, {**ROW, "age": 99, "ward": None}).json()
    expected = Predictor.of(folder).predict({"age": np.array([61, 99]), "cost": np.array([3.5, 3.5]),
        "ward": np.array(["1", None], object), "sex": np.array(["f", "f"], object)})  # fmt: skip
    assert [one["prediction"] for one in answer["predictions"]] == expected.prediction.tolist()
    chances = [one["probabilities"]["yes"] for one in answer["predictions"]]
    assert chances == pytest.approx(expected.probabilities["yes"], abs=1e-5)
    as_columns = running.client.post("/predict", json={"columns": {k: [v] for k, v in ROW.items()}}).json()
    assert as_columns["columns"]["probabilities"]["yes"] == pytest.approx(chances[:1])
    labelled = {"labels": [{"id": answer["id"], "row": 1, "label": "yes"}]}
    assert running.client.post("/labels", json=labelled).json() == {"labels": 1}
    kept = {(one["answer"], one["row"]): one for one in rows_of(running, 3)}
    assert dict(kept[answer["id"], 1]) | {"served": ""} == {
        "age": 99, "cost": 3.5, "ward": None, "sex": "f", "ill": "yes", "served": "",
        "prediction": answer["predictions"][1]["prediction"], "model_version": 1, "answer": answer["id"],
        "row": 1,
    }  # fmt: skip
    assert kept[answer["id"], 0]["ill"] is None


def test_a_number_is_predicted_and_explained(tmp_path: Path, federation: Federation, start: Start) -> None:
    made = experiment(label=LABELS["a number"])
    running = start(federation.version(tmp_path / "days", made=made))
    answer = running.predict(ROW, explain=True).json()["predictions"][0]
    assert 1 <= answer["prediction"] <= 15
    assert set(answer["explanation"]) == {"age", "cost", "ward", "sex"}
    labelled = {"labels": [{"id": running.predict().json()["id"], "label": 3.5}]}
    assert running.client.post("/labels", json=labelled).status_code == 200
    assert {one["days"] for one in rows_of(running, 2)} == {None, 3.5}


def test_no_answer_that_was_given_is_lost_to_kill_nine(folder: Path, start: Start) -> None:
    running = start(folder)
    given = [running.predict().json()["id"] for _ in range(20)]
    running.process.kill()
    running.process.wait(60)
    again = start(folder)
    assert {one["answer"] for one in rows_of(again, 20)} == set(given)
    assert again.predict().status_code == 200
    rows_of(again, 21)


def test_swap_and_rollback_under_load_lose_no_request(
    tmp_path: Path, folder: Path, federation: Federation, start: Start
) -> None:
    running = start(folder)

    def answers(version: int) -> bool:
        return bool(running.predict().json()["version"] == version)

    with asked_without_end(running) as found:
        for version, decision in ((2, 2), (1, 3)):
            new = federation.version(tmp_path / "new", version=version, decision=decision, seed=version - 1)
            for one in new.iterdir():
                if one.name != STATEMENT_FILE:
                    shutil.copy(one, folder / one.name)
            shutil.copy(new / STATEMENT_FILE, tmp_path / "aside")
            (tmp_path / "aside").replace(folder / STATEMENT_FILE)
            wait_until(partial(answers, version), f"version {version} answers")
        time.sleep(0.2)
    assert {status for status, _ in found} == {200}
    assert {version for _, version in found} == {1, 2}
    assert found[-1][1] == 1
    assert len(list((running.home / "tidegate" / "models" / "small").glob("[0-9]*"))) == 2
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(60) == 0


def _changed_array(folder: Path) -> None:
    content = bytearray((folder / ARRAYS_FILE).read_bytes())
    content[-5] ^= 1
    (folder / ARRAYS_FILE).write_bytes(content)


def _changed_graph(folder: Path) -> None:
    (folder / GRAPH_FILE).write_bytes((folder / GRAPH_FILE).read_bytes() + b" ")


def _unsigned(folder: Path) -> None:
    (folder / STATEMENT_FILE).unlink()


def _cut(folder: Path) -> None:
    text = (folder / STATEMENT_FILE).read_text()
    (folder / STATEMENT_FILE).write_text(text[: len(text) // 2])


def _without_arrays(folder: Path) -> None:
    (folder / ARRAYS_FILE).unlink()


@pytest.mark.parametrize("spoil", [_changed_array, _changed_graph, _unsigned, _cut, _without_arrays])
def test_what_nobody_signed_does_not_answer(
    folder: Path, start: Start, spoil: Callable[[Path], None]
) -> None:
    spoil(folder)
    with pytest.raises(ChildProcessError, match=r"2 error: .*visits-1") as told:
        start(folder)
    assert "Traceback" not in str(told.value)


def test_what_is_offered_later_and_does_not_hold_is_refused_and_logged(
    tmp_path: Path, folder: Path, federation: Federation, start: Start
) -> None:
    older = federation.version(tmp_path / "older", version=1, decision=4)
    newer = federation.version(tmp_path / "newer", version=2, decision=5, seed=1)
    running = start(newer)
    assert running.told["version"] == 2

    def offer(source: Path, words: str) -> None:
        before = running.log.count(words)
        for one in source.iterdir():
            shutil.copy(one, newer / one.name)
        wait_until(lambda: running.log.count(words) > before, f"'{words}' is logged")
        assert running.predict().json()["version"] == 2

    offer(older, "it is older")
    offer(federation.version(tmp_path / "tried", version=3, decision=None), "is not in service")
    changed = federation.version(tmp_path / "changed", version=3, decision=6, seed=2)
    _changed_graph(changed)
    offer(changed, "is not the file that it names")
    stranger = federation.version(
        tmp_path / "stranger", version=9, decision=9, made=experiment().model_copy(update={"name": "other"})
    )
    offer(stranger, "it is of 'other'")
    refused = running.client.get("/metrics").text
    assert "tidegate_versions_refused_total 4.0" in refused
    running.process.send_signal(signal.SIGTERM)
    running.process.wait(60)
    again = start(older)  # its own store has the newer one, and the folder an older one
    assert again.told["version"] == 2


def test_a_second_service_of_the_model_is_one_sentence(folder: Path, start: Start) -> None:
    first = start(folder)
    with pytest.raises(ChildProcessError, match="another service writes this log"):
        start(folder)
    first.process.kill()
    first.process.wait(60)
    assert start(folder).told["version"] == 1


def test_the_open_protocol_s_own_client_is_served(folder: Path, start: Start) -> None:
    """Triton's client, which nobody here wrote; it sends tensors in bytes without being asked."""
    import tritonclient.http as triton
    from tritonclient.utils import InferenceServerException

    running = start(folder)
    client = triton.InferenceServerClient(running.url.removeprefix("http://"))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("small")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    told = client.get_model_metadata("small")
    assert [one["name"] for one in told["inputs"]] == ["age", "cost", "ward", "sex"]
    values: dict[str, Any] = {
        "age": np.array([[61.0], [99.0]]), "cost": np.array([[3.5], [np.nan]]),
        "ward": np.array([["1"], [""]], object), "sex": np.array([["f"], ["m"]], object),
    }  # fmt: skip
    for binary in (True, False):
        inputs = []
        for one in told["inputs"]:
            tensor = triton.InferInput(one["name"], [2, 1], one["datatype"])
            given = values[one["name"]]
            if not binary and one["name"] == "cost":
                given = np.array([[3.5], [0.0]])  # JSON has no NaN; nothing stands for 0 here
            tensor.set_data_from_numpy(given, binary_data=binary)
            inputs.append(tensor)
        outputs = [
            triton.InferRequestedOutput(name, binary_data=binary) for name in ("prediction", "probabilities")
        ]
        found = client.infer("small", inputs, outputs=outputs, request_id="7")
        chances = found.as_numpy("probabilities")
        assert chances.shape == (2, 2)
        plain = running.predict(ROW, {"age": 99, "cost": None, "ward": None, "sex": "m"}).json()[
            "predictions"
        ]
        assert chances[:, 1] == pytest.approx([one["probabilities"]["yes"] for one in plain])
        named = [
            one.decode() if isinstance(one, bytes) else one for one in found.as_numpy("prediction")[:, 0]
        ]
        assert named == [one["prediction"] for one in plain]
        assert found.get_response()["id"] == "7"
    with pytest.raises(
        InferenceServerException if hasattr(triton, "InferenceServerException") else Exception
    ):
        client.infer("small", inputs[:1])
    client.close()


BAD: list[tuple[int, str, Any]] = [
    (422, "age", {"rows": [{**ROW, "age": "61"}]}),
    (422, "age", {"rows": [{**ROW, "age": 101}]}),
    (422, "age", {"rows": [{**ROW, "age": None}]}),
    (422, "age", {"rows": [{key: value for key, value in ROW.items() if key != "age"}]}),
    (422, "age", {"rows": [{**ROW, "age": [61]}]}),
    (422, "age", {"rows": [{**ROW, "age": 1e308}]}),
    (422, "age", {"rows": [ROW, {**ROW, "age": -1}]}),
    (422, "sex", {"rows": [{**ROW, "sex": "x"}]}),
    (422, "sex", {"rows": [{**ROW, "sex": {"a": 1}}]}),
    (422, "sex", {"rows": [{**ROW, "sex": "Ottilie"}]}),
    (422, "Ottilie", {"rows": [{**ROW, "Ottilie": "Ottilie"}]}),
    (422, "sex", {"rows": [{**ROW, "sex": ""}]}),
    (422, "sex", {"rows": [{**ROW, "sex": "f\0"}]}),
    (422, "agee", {"rows": [{**ROW, "agee": 1}]}),
    (422, "the rows", {"rows": []}),
    (422, "the body", {}),
    (422, "the body", {"rows": [ROW], "columns": {}}),
    (422, "rows", {"rows": 7}),
    (422, "rows[0]", {"rows": [7]}),
    (422, "the body", {"rows": [ROW], "strange": 1}),
    (422, "sex", {"columns": {"age": [1, 2], "sex": ["f"]}}),
    (422, "partial", {"rows": [ROW], "partial": "yes"}),
]


def test_a_bad_request_is_told_the_field_and_the_reason(folder: Path, start: Start) -> None:
    running = start(folder)
    for status, field, body in BAD:
        answer = running.client.post("/predict", json=body)
        first = answer.json()["errors"][0]
        assert (answer.status_code, first["field"]) == (status, field), body
        assert first["reason"]
    for content, status in (
        (b"", 400), (b"{", 400), (b"\xff\xfe", 400), (b'{"rows": [{"age": NaN}]}', 400),
        (b'{"rows": [{"sex": "\\ud800"}]}', 400), (b"[" * 100_000, 422), (b"null", 422), (b"[]", 422),
        (b'{"rows":[' + b'{"age":' * 20_000, 400), (b"x" * (2**24 + 1), 413),
    ):  # fmt: skip
        answer = running.client.post("/predict", content=content)
        assert (answer.status_code, bool(answer.json()["errors"])) == (status, True), content[:20]
    long = running.client.post("/predict", content=(b"x" * 2**20 for _ in range(100)))
    assert long.status_code == 413
    assert running.client.get("/nothing").status_code == 404
    assert running.client.request("DELETE", "/predict").status_code == 405
    assert running.client.post("/v2/models/other/infer", json={"inputs": []}).status_code == 404
    assert (
        running.client.post("/labels", json={"labels": [{"id": "0" * 32, "label": "yes"}]}).status_code == 404
    )
    assert (
        running.client.post("/labels", json={"labels": [{"id": "0" * 32, "label": "?"}]}).status_code == 422
    )
    assert running.predict().status_code == 200
    rows_of(running, 1)
    words = running.log + running.client.get("/metrics").text
    assert "Ottilie" not in words
    assert "failed" not in words


def test_one_cheap_request_holds_nobody_up(folder: Path, start: Start) -> None:
    """Each row with a field of its own would be as many columns as rows, each as long."""
    running = start(folder)
    others = {f"f{number}": 1 for number in range(200_000)}
    bodies: tuple[Any, ...] = (
        {"rows": [{name: 1} for name in others]},
        {"rows": [{name: 1} for name in list(others)[:50_000]]},
        {"rows": [others]},
        {"columns": {name: [] for name in others}},
        {"rows": [{"age": "?", "cost": "?", "ward": 7, "sex": []}] * 100_000},
        {"columns": {"age": [61] * 400_000}},
    )
    for body in bodies:
        answer = running.client.post("/predict", json=body, timeout=60)
        assert answer.status_code == 422
        assert 1 <= len(answer.json()["errors"]) <= 21
    assert running.predict().status_code == 200


def test_too_many_long_requests_are_told_so(folder: Path, start: Start) -> None:
    running = start(folder)
    rows = {"rows": [ROW] * 20_000}
    content = json.dumps(rows).encode()
    with ThreadPoolExecutor(24) as asking:
        answers = list(asking.map(lambda _: running.client.post("/predict", content=content), range(24)))
    statuses = {one.status_code for one in answers}
    assert 200 in statuses
    assert statuses <= {200, 503}
    assert running.predict().status_code == 200


@pytest.mark.parametrize("depth", [1, 900, 985, 2000])
def test_a_nested_value_is_refused_and_the_service_starts_again(
    folder: Path, start: Start, depth: int
) -> None:
    running = start(folder)
    value = "[" * depth + "]" * depth
    for text in (f'{{"rows": [{{"age": {value}}}]', f'{{"columns": {{"age": [{value}]}}'):
        for rest in (', "partial": true}', "}" + " " * 70_000):
            answer = running.client.post("/predict", content=text + rest)
            assert 400 <= answer.status_code < 500
    running.predict()
    running.process.kill()
    running.process.wait(60)
    assert start(folder).predict().status_code == 200


def test_a_tried_version_goes_where_another_schema_answers(
    tmp_path: Path, folder: Path, federation: Federation, start: Start
) -> None:
    tried = federation.version(tmp_path / "tried", version=7, decision=None, seed=5)
    running = start(folder, "--shadow", str(tried))
    running.predict()
    other = federation.version(tmp_path / "new", version=2, decision=2, made=experiment(features=[AGE, SEX]))
    for one in sorted(other.iterdir(), key=lambda one: one.name == STATEMENT_FILE):
        shutil.copy(one, folder / one.name)
    row = {"age": 61, "sex": "f"}
    wait_until(lambda: running.predict(row).json()["version"] == 2, "the new version answers")
    assert "is tried no more" in running.log


def test_outputs_are_looked_at_before_a_row_is(folder: Path, start: Start) -> None:
    running = start(folder)
    inputs = [
        {"name": name, "shape": [1], "datatype": "BYTES" if isinstance(one, str) else "FP64", "data": [one]}
        for name, one in ROW.items()
    ]
    for outputs in ([{"name": "nothing"}], [{"name": "probabilities"}] * 500):
        asked = {"inputs": inputs, "outputs": outputs}
        assert running.client.post("/v2/models/small/infer", json=asked).status_code == 422
    assert running.client.post("/v2/models/small/infer", json={"inputs": inputs}).status_code == 200
    rows_of(running, 1)


def test_partly_means_as_in_training(folder: Path, start: Start) -> None:
    running = start(folder)
    for given in ("?", "1e400", "NA", None):
        told = running.predict({**ROW, "cost": given}, partial=True).json()["predictions"][0]
        assert told == running.predict({**ROW, "cost": 0}).json()["predictions"][0], given


def test_a_web_socket_is_no_fault_of_the_service(folder: Path, start: Start) -> None:
    running = start(folder)
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "x",
    }
    assert running.client.get("/predict", headers={**upgrade, "Sec-WebSocket-Key": "x"}).status_code < 500
    assert "ERROR" not in running.log


def test_what_cannot_be_kept_does_not_answer_and_is_taken_later(
    tmp_path: Path, folder: Path, federation: Federation, start: Start
) -> None:
    running = start(folder)
    current = running.home / "tidegate" / "models" / "small" / "current.json"
    kept = current.read_bytes()
    current.unlink()
    current.mkdir()  # it cannot be written then
    new = federation.version(tmp_path / "new", version=2, decision=5, seed=1)
    for one in sorted(new.iterdir(), key=lambda one: one.name == STATEMENT_FILE):
        shutil.copy(one, folder / one.name)
    wait_until(lambda: "cannot be had now" in running.log, "that is said")
    assert running.predict().json()["version"] == 1
    current.rmdir()
    current.write_bytes(kept)
    wait_until(lambda: running.predict().json()["version"] == 2, "it is taken once it can be kept")


def test_tensors_that_lie_about_themselves_are_refused(folder: Path, start: Start) -> None:
    running = start(folder)

    def infer(*inputs: dict[str, Any], rest: bytes = b"", length: str | None = None) -> tuple[int, str]:
        head = json.dumps({"inputs": list(inputs)}).encode()
        headers = {"Inference-Header-Content-Length": length or str(len(head))}
        answer = running.client.post("/v2/models/small/infer", content=head + rest, headers=headers)
        return answer.status_code, answer.json()["error"]

    def tensor(**more: Any) -> dict[str, Any]:
        return {"name": "age", "shape": [1, 1], "datatype": "FP64", **more}

    for length in ("999", "x", "0", "-1", "9" * 30):
        assert infer(tensor(data=[1.0]), length=length)[0] == 400
    sized = {"parameters": {"binary_data_size": 8}}
    text = {"name": "sex", "datatype": "BYTES"}
    for given, rest, words in (
        (tensor(**sized), b"", "its bytes are not there"),
        (tensor(parameters={"binary_data_size": -8}), b"", "its bytes are not there"),
        (tensor(parameters={"binary_data_size": "8"}), b"x" * 8, "its bytes are not there"),
        (tensor(**sized, shape=[2, 1]), b"x" * 8, "its shape"),
        (tensor(parameters={"binary_data_size": 7}), b"x" * 7, "no whole number"),
        (tensor(**sized), b"x" * 9, "more bytes"),
        (tensor(**sized, datatype="FP128"), b"x" * 8, "no datatype"),
        (tensor(), b"", "it has no data"),
        (tensor(data=[[1.0], [2.0]]), b"", "its shape"),
        (tensor(**text, **sized), struct.pack("<I", 5) + b"abcd", "longer than its bytes"),
        (tensor(**text, **sized), struct.pack("<I", 4) + b"\xff\xfe\xfd\xfc", "no UTF-8"),
        (tensor(**text, parameters={"binary_data_size": 3}), b"abc", "no whole length"),
    ):  # fmt: skip
        status, error = infer(given, rest=rest)
        assert 400 <= status < 500
        assert words in error
    assert infer(tensor(data=[1.0]), tensor(data=[1.0]))[1].startswith("age: it is there twice")
    assert running.predict().status_code == 200


def test_a_partial_answer_says_of_each_row_why(folder: Path, start: Start) -> None:
    running = start(folder)
    strange: list[dict[str, Any]] = [
        ROW,
        {**ROW, "age": 300},
        {**ROW, "age": "?"},
        {**ROW, "sex": "x"},
        {**ROW, "age": "61.0"},
    ]
    told = running.predict(*strange, partial=True).json()["predictions"]
    assert [one["prediction"] is None for one in told] == [False, False, True, True, False]
    assert told[2]["reason"].startswith("age: ")
    assert told[3]["reason"].startswith("sex: ")
    assert told[4] == told[0]
    assert told[1] == running.predict({**ROW, "age": 100}).json()["predictions"][0]


def test_many_rows_are_those_of_one_by_one(folder: Path, start: Start) -> None:
    running, rng = start(folder), np.random.default_rng(0)
    rows = [
        {**ROW, "age": round(float(age), 3), "cost": None if one else 7, "ward": "2" if one else None}
        for age, one in zip(rng.uniform(20, 100, 3000), rng.random(3000) < 0.5, strict=True)
    ]
    whole = running.predict(*rows).json()
    assert len(whole["predictions"]) == 3000
    for place in (0, 1, 1500, 2999):
        assert running.predict(rows[place]).json()["predictions"][0] == whole["predictions"][place]
    assert sum(one["answer"] == whole["id"] for one in rows_of(running, 3004)) == 3000


def test_without_its_key_nobody_is_told_anything(
    tmp_path: Path, folder: Path, federation: Federation, start: Start
) -> None:
    home = tmp_path / "site"
    home.mkdir()
    keys = home / "api-keys.json"
    made = ("site", "serve-key", "the ward", "--keys", str(keys))
    key = tidegate_there(home, *made).stdout.strip()
    assert key not in keys.read_text()
    assert "has a key" in tidegate_there(home, *made).stderr
    running = start(folder, more='keys = "api-keys.json"')
    for path in ("/", "/metrics", "/openapi.json", "/v2", "/v2/models/small", "/nothing"):
        assert running.client.get(path).status_code == 401
    for given in ("", "Bearer", f"Basic {key}", f"Bearer {key}x", "Bearer \xe9"):
        refused = running.client.post(
            "/predict", json={"rows": [ROW]}, headers={b"Authorization": given.encode("latin-1")}
        )
        assert refused.status_code == 401
    assert running.client.get("/healthz").json() == {"live": True}
    named = {"Authorization": f"Bearer {key}"}
    assert running.client.post("/predict", json={"rows": [ROW]}, headers=named).status_code == 200
    for more in ('host = "0.0.0.0"', 'host = "0.0.0.0"\nkeys = "api-keys.json"'):
        with pytest.raises(ChildProcessError, match="it needs API keys and TLS"):
            start(folder, more=more)


def test_over_tls_and_a_busy_port(folder: Path, federation: Federation, start: Start, tmp_path: Path) -> None:
    words = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout key.pem -out tls.pem "
        "-subj /CN=here -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run(["openssl", *words.split()], cwd=tmp_path, check=True, capture_output=True)
    more = f'certificate = "{tmp_path}/tls.pem"\nkey = "{tmp_path}/key.pem"'
    running = start(folder, more=more, verify=str(tmp_path / "tls.pem"))
    assert running.url.startswith("https://")
    assert running.predict().status_code == 200
    running.process.send_signal(signal.SIGTERM)
    running.process.wait(60)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(ChildProcessError, match=r"error: 127\.0\.0\.1:\d+: it cannot listen there"):
            start(folder, "--port", port)


def test_a_shadow_is_kept_and_told_to_nobody_and_a_canary_answers_a_share(
    tmp_path: Path, folder: Path, federation: Federation, start: Start
) -> None:
    tried = federation.version(tmp_path / "tried", version=2, decision=None, seed=5)
    running = start(folder, "--shadow", str(tried))
    assert {running.predict().json()["version"] for _ in range(5)} == {1}
    rows_of(running, 5)
    with sqlite3.connect(running.home / "tidegate" / "predictions.db") as connection:
        found = dict(connection.execute("SELECT role, count(*) FROM answers GROUP BY role"))
    assert found == {"served": 5, "shadow": 5}
    running.process.send_signal(signal.SIGTERM)
    running.process.wait(60)
    running = start(folder, "--canary", str(tried), "--share", "0.5")
    assert {running.predict().json()["version"] for _ in range(60)} == {1, 2}
    other = federation.version(
        tmp_path / "other",
        version=3,
        decision=None,
        made=experiment(scaling="unit", out_of_range="leave-out"),
    )
    running.process.send_signal(signal.SIGTERM)
    running.process.wait(60)
    with pytest.raises(ChildProcessError, match="asks for other columns"):
        start(folder, "--canary", str(other))


def test_no_heavy_library_is_loaded_and_it_is_small(folder: Path, start: Start) -> None:
    running = start(folder)
    assert running.predict().status_code == 200
    maps = Path(f"/proc/{running.process.pid}/maps").read_text()
    assert not [name for name in ("torch", "pandas", "scipy", "mlflow", "pyarrow") if f"/{name}/" in maps]


def test_a_version_without_a_graph_answers_by_numpy(
    tmp_path: Path, federation: Federation, start: Start
) -> None:
    running = start(federation.version(tmp_path / "older", graph=False))
    assert running.told["engine"] == "numpy"
    assert running.predict().json()["predictions"][0]["prediction"] in ("no", "yes")


def test_a_full_disk_gives_no_answer_that_is_not_kept(folder: Path, start: Start) -> None:
    running = start(folder)
    running.predict()
    rows_of(running, 1)
    resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    for count in (900, 2000):  # computed at once, and in a thread
        answer = running.predict(*[ROW] * count)
        assert answer.status_code == 503
        assert "prediction log" in answer.json()["error"]
    assert "prediction log cannot be written" in running.log
    resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    assert running.predict().status_code == 200
    rows_of(running, 2)


def test_answers_wait_where_the_database_is_away(folder: Path, start: Start) -> None:
    running = start(folder)
    running.predict()
    rows_of(running, 1)
    database = running.home / "tidegate" / "predictions.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TRIGGER away BEFORE INSERT ON answers BEGIN SELECT RAISE(ABORT, 'x'); END")
    given = {running.predict().json()["id"] for _ in range(5)}
    wait_until(lambda: "answers wait for the prediction log" in running.log, "that is said")
    with sqlite3.connect(database) as connection:
        connection.execute("DROP TRIGGER away")
    assert {one["answer"] for one in rows_of(running, 6)} >= given


def test_the_page_and_the_document_say_what_may_be_asked(folder: Path, start: Start) -> None:
    running = start(folder)
    page = running.client.get("/").text
    assert "a number, 20 to 100" in page
    assert "src=" not in page
    assert "http://" not in page
    document = running.client.get("/openapi.json").json()
    shown = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert running.client.post("/predict", json=shown).status_code == 200
