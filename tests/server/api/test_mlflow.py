"""MLflow behind the API: real TLS, a real MLflow at its socket, and those who want more than they may."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

import server.api.door
import server.api.mlflow_proxy
from contract.federation_api import MOST_BODY
from contract.roles import Role
from server.api.mlflow_rules import allowed_body
from server.federation import Federation
from server.gateway import connections
from server.line.processes import Processes, free_port
from server.registry.registry import CHAMPION, Registry
from server.registry.registry_ui import ui_socket
from server.state.records import VersionRecord
from server.state.versions import RegisteredVersions
from tests.server.api.conftest import Served, serving
from tests.server.federation import plan

ROLES: tuple[Role, ...] = ("scientist", "operator", "reviewer")
WRITERS: tuple[Role, ...] = ("operator", "reviewer")
ARRAYS = {"layers.0.weight": np.ones((1, 3), dtype=np.float32), "layers.0.bias": np.ones(1, dtype=np.float32)}
NAME = plan().name
PAGE = "<script>document.title = 'run'</script>"
LARGE = 30_000_000


class Standing:
    """A served API with MLflow behind it, a person of each role, and two versions of a model."""

    def __init__(self, served: Served, processes: Processes) -> None:
        self.served, self.processes = served, processes
        self.tokens = {role: served.people.add(f"the {role}", role) for role in ROLES}
        self.registry = Registry(served.settings.tracking_uri, served.settings.artifact_root)
        self.runs = [self._version(served.settings.home) for _ in range(2)]
        self.registry.set_alias(NAME, CHAMPION, 1)

    def _version(self, home: Path) -> str:
        run = self.registry.start_run(plan(), run_name="first", tags={"tidegate.private": "NO"})
        self.registry.log_text(run, PAGE, "page.html")
        self.registry.log_text(run, "x" * LARGE, "large.txt")
        tags = {"tidegate.private": "NO"}
        self.registry.register(
            NAME, run, ARRAYS, experiment=plan(), description="# Model passport", tags=tags
        )
        self.registry.finish_run(run, "succeeded")
        return run

    def client(self, role: Role) -> httpx.Client:
        return self.served.client(self.tokens[role])

    def browser(self, role: Role) -> httpx.Client:
        """As a browser that has signed in sends its requests."""
        client = self.served.client(headers={"Origin": self.served.url, "Accept": "text/html"})
        assert client.post("/sign-in", data={"token": self.tokens[role]}).status_code == 303
        return client

    def versions(self) -> tuple[VersionRecord, ...]:
        return Registry(self.served.settings.tracking_uri, self.served.settings.artifact_root).versions(NAME)

    def everything(self) -> str:
        """All that MLflow keeps, as it tells it."""
        with self.client("operator") as client:
            found = [
                client.get("/mlflow/api/2.0/mlflow/registered-models/search").json(),
                client.get("/mlflow/api/2.0/mlflow/experiments/search?max_results=100").json(),
                *(
                    client.get("/mlflow/api/2.0/mlflow/runs/get", params={"run_id": r}).json()
                    for r in self.runs
                ),
            ]
        return json.dumps([found, [(v.tags, v.description, v.aliases) for v in self.versions()]])


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    home = (
        tmp_path_factory.mktemp("a-server-whose-folder-has-a-name-too-long-for-the-path-of-a-socket") / "home"
    )
    with serving(home, free_port()) as served, Processes(logs=home / "logs") as processes:
        federation = Federation(
            home=home, settings=served.settings, processes=processes, file=served.file, lasting=True
        )
        assert len(str(ui_socket(home))) > 107
        assert federation.start_ui(None) == f"{served.url}/mlflow/"
        found = Standing(served, processes)
        with found.client("reviewer") as client:
            end = time.monotonic() + 600
            while (answer := client.get("/mlflow/version")).status_code != 200:
                processes.require_running()
                assert time.monotonic() < end, answer.text
                time.sleep(0.3)
        yield found


REST = "/mlflow/api/2.0/mlflow/"
AJAX = "/mlflow/ajax-api/2.0/mlflow/"


def _writes(standing: Standing) -> list[tuple[str, str, dict[str, Any]]]:
    run = standing.runs[0]
    return [
        ("POST", "runs/set-tag", {"run_id": run, "key": "seen", "value": "yes"}),
        ("POST", "runs/set-tag", {"run_uuid": run, "key": "mlflow.note.content", "value": "a note"}),
        ("POST", "experiments/set-experiment-tag", {"experiment_id": "1", "key": "k", "value": "v"}),
        ("POST", "registered-models/set-tag", {"name": NAME, "key": "owner", "value": "ward 3"}),
        ("POST", "model-versions/set-tag", {"name": NAME, "version": "1", "key": "seen", "value": "x"}),
        ("PATCH", "registered-models/update", {"name": NAME, "description": "what it is for"}),
    ]


def test_everybody_reads(standing: Standing) -> None:
    for role in ROLES:
        with standing.client(role) as client:
            page = client.get("/mlflow/")
            assert page.status_code == 200
            assert "MLflow" in page.text
            found = client.get(f"{REST}registered-models/get", params={"name": NAME}).json()
            assert found["registered_model"]["name"] == NAME
            runs = client.post(f"{AJAX}runs/search", json={"experiment_ids": ["1"]}).json()["runs"]
            assert {run["info"]["run_id"] for run in runs} == set(standing.runs)
            run = f'mlflowGetRun(input: {{runId: "{standing.runs[0]}"}}) {{run {{info {{status}}}}}}'
            asked = {"query": f"{{{run}}}"}
            assert "FINISHED" in client.post("/mlflow/graphql", json=asked).text
            assert client.head("/mlflow/").status_code == 200


def test_each_role_and_each_kind_of_writing_that_is_offered(standing: Standing) -> None:
    for prefix in (REST, AJAX):
        for method, path, body in _writes(standing):
            before = standing.everything()
            with standing.client("scientist") as client:
                refused = client.request(method, prefix + path, json=body)
                assert (refused.status_code, refused.json()["error_code"]) == (403, "PERMISSION_DENIED")
                assert "a scientist reads here" in refused.json()["message"]
            assert standing.everything() == before
            for role in WRITERS:
                with standing.client(role) as client:
                    value = f"{role} {prefix}"
                    key = "description" if "description" in body else "value"
                    answer = client.request(method, prefix + path, json={**body, key: value})
                    assert answer.status_code == 200, answer.text
                assert value in standing.everything()
    assert "the reviewer writes to MLflow" in standing.served.log


def test_nobody_moves_an_alias_deletes_or_touches_a_passport(standing: Standing) -> None:
    before, run, version = standing.everything(), standing.runs[0], {"name": NAME, "version": "2"}
    model = {"name": NAME}
    asked: list[tuple[str, str, dict[str, Any], str]] = [
        ("POST", "registered-models/alias", {**version, "alias": "champion"}, "moved by the service account"),
        ("POST", "registered-models/alias", {**version, "alias": "Challenger"}, "service account"),
        ("DELETE", "registered-models/alias", {**model, "alias": "champion"}, "moved by the service account"),
        ("POST", "model-versions/transition-stage", {**version, "stage": "Production"}, "service account"),
        ("DELETE", "registered-models/delete", model, "nothing is deleted"),
        ("DELETE", "model-versions/delete", version, "nothing is deleted"),
        ("DELETE", "model-versions/delete-tag", {**version, "key": "tidegate.private"}, "nothing is deleted"),
        ("DELETE", "registered-models/delete-tag", {**model, "key": "x"}, "nothing is deleted"),
        ("POST", "runs/delete", {"run_id": run}, "nothing is deleted"),
        ("POST", "runs/delete-tag", {"run_id": run, "key": "tidegate.private"}, "nothing is deleted"),
        ("POST", "experiments/delete", {"experiment_id": "1"}, "nothing is deleted"),
        ("POST", "experiments/delete-experiment-tag", {"experiment_id": "1", "key": "k"}, "is deleted"),
        ("PATCH", "model-versions/update", {**version, "description": "better"}, "is its passport"),
        ("POST", "registered-models/rename", {**model, "new_name": "x"}, "not among"),
        ("POST", "registered-models/create", {"name": "x", "tags": []}, "not among"),
        ("POST", "model-versions/create", {**model, "source": "file:///etc", "run_id": run}, "not among"),
        ("POST", "experiments/create", {"name": "x", "artifact_location": "file:///etc"}, "not among"),
        ("POST", "experiments/update", {"experiment_id": "1", "new_name": "x"}, "not among"),
        ("POST", "runs/update", {"run_id": run, "status": "FAILED"}, "not among"),
        ("POST", "runs/create", {"experiment_id": "1"}, "not among"),
        ("POST", "runs/log-batch", {"run_id": run, "tags": [{"key": "tidegate.x", "value": ""}]}, "not"),
        ("POST", "runs/log-metric", {"run_id": run, "key": "auc", "value": 1, "timestamp": 1}, "not among"),
        ("POST", "runs/outputs", {"run_id": run}, "not among"),
        ("POST", "upload-artifact", {"run_uuid": run}, "not among"),
        ("POST", "logged-models", {"experiment_id": "1"}, "not among"),
        ("POST", "webhooks", {"name": "x", "url": "https://example.org", "events": []}, "not among"),
        ("GET", "webhooks", {}, "not among"),
        ("GET", "gateway-proxy", {}, "not among"),
        ("PUT", "runs/set-tag", {"run_id": run, "key": "seen", "value": "put"}, "not among"),
    ]  # fmt: skip
    keys = ("tidegate.private", "TIDEGATE.private", " tidegate.private", "mlflow.user", "mlflow.runName",
            "tidegate.arrays_sha256", "mlflow.note.Content")  # fmt: skip
    for path, whose in (("runs/set-tag", {"run_id": run}), ("model-versions/set-tag", version)):
        asked += [("POST", path, {**whose, "key": key, "value": "yes"}, "") for key in keys]
    for role in ROLES:
        with standing.client(role) as client:
            for prefix in (REST, AJAX):
                for method, path, body, words in asked:
                    refused = client.request(method, prefix + path, json=body)
                    assert refused.status_code in (400, 403), (role, method, path)
                    assert words in refused.json()["message"] or role == "scientist", refused.text
            for method, path in (
                ("PUT", "/mlflow/api/2.0/mlflow-artifacts/artifacts/x"),
                ("DELETE", "/mlflow/api/2.0/mlflow-artifacts/artifacts/x"),
                ("POST", "/mlflow/ajax-api/3.0/mlflow/gateway/secrets/create"),
                ("GET", "/mlflow/ajax-api/3.0/mlflow/gateway/secrets/list"),
                ("POST", "/mlflow/ajax-api/3.0/mlflow/assistant/message"),
                ("POST", "/mlflow/ajax-api/3.0/jobs"),
                ("POST", "/mlflow/v1/traces"),
                ("POST", "/mlflow/"),
                ("OPTIONS", f"{REST}runs/set-tag"),
            ):
                assert client.request(method, path, content=b"{}").status_code == 403, path
    assert standing.everything() == before
    assert [one.aliases for one in standing.versions()] == [(CHAMPION,), ()]


def test_one_body_has_one_reading(standing: Standing) -> None:
    """MLflow takes a field in two spellings, from a query, and the last of two: what is passed on is ours."""
    before, run = standing.everything(), standing.runs[0]
    with standing.client("reviewer") as client:
        for body in (
            f'{{"run_id": "{run}", "key": "seen", "value": "1", "runId": "{standing.runs[1]}"}}',
            f'{{"run_id": "{run}", "run_uuid": "{standing.runs[1]}", "key": "seen", "value": "1"}}',
            f'{{"run_id": "{run}", "key": "seen", "value": 1}}',
            f'{{"run_id": ["{run}"], "key": "seen", "value": "1"}}',
            f'"{{\\"run_id\\": \\"{run}\\", \\"key\\": \\"tidegate.private\\", \\"value\\": \\"1\\"}}"',
            "[]", "", "{", "null", "\0", '{"key": "a"}' + " " * 1000 + "x", "[" * 100_000,
        ):  # fmt: skip
            refused = client.post(f"{REST}runs/set-tag", content=body)
            assert refused.status_code == 400, body[:100]
            assert len(refused.content) < 1000
        twice = f'{{"run_id": "{run}", "key": "seen", "key": "tidegate.private", "value": "1"}}'
        assert client.post(f"{REST}runs/set-tag", content=twice).status_code == 403
        assert standing.everything() == before
        body = {"run_id": run, "key": "query", "value": "of the body"}
        query = {"run_id": standing.runs[1], "key": "tidegate.private", "value": "yes"}
        assert client.post(f"{REST}runs/set-tag", json=body, params=query).status_code == 200
    after = standing.everything()
    assert "of the body" in after
    assert '"yes"' not in after


def test_mlflows_own_client_reads_with_a_token(standing: Standing) -> None:
    script = f"""
from mlflow import MlflowClient
client = MlflowClient()
assert client.get_model_version_by_alias({NAME!r}, 'champion').version in ('1', 1)
print(client.get_run({standing.runs[0]!r}).data.tags['tidegate.private'])
print(len(client.search_model_versions("name='{NAME}'")))
client.set_model_version_tag({NAME!r}, '2', 'read-by', 'its client')
client.set_tag({standing.runs[0]!r}, 'read-by', 'its client')
try:
    client.set_registered_model_alias({NAME!r}, 'champion', '2')
except Exception as error:
    print(error)
"""
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": f"{standing.served.url}/mlflow",
        "MLFLOW_TRACKING_TOKEN": standing.tokens["reviewer"],
        "MLFLOW_TRACKING_SERVER_CERT_PATH": str(standing.served.files.authority),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["NO", "2"]
    assert "aliases are moved by the service account alone" in done.stdout
    assert standing.versions()[1].tags["read-by"] == "its client"


def test_without_a_token_nothing_of_mlflow_is_told(standing: Standing) -> None:
    paths = ("/mlflow/", "/mlflow", "/mlflow/version", f"{REST}experiments/search", "/mlflow/static-files/x")
    with standing.served.client() as nobody:
        for path in paths:
            assert nobody.get(path).status_code in (401, 429), path
            sent = nobody.get(path, headers={"Accept": "text/html"})
            assert (sent.status_code, sent.headers["location"]) == (303, "/")
        assert nobody.post(f"{REST}runs/search", headers={"Accept": "text/html"}).status_code in (401, 429)
    with standing.served.client("guess", {"Accept": "text/html"}) as guessing:
        assert guessing.get("/mlflow/").status_code in (401, 429)


def test_no_path_leads_round_the_rules(standing: Standing) -> None:
    before = standing.everything()
    body = json.dumps({"name": NAME, "version": "2", "alias": "champion"}).encode()
    for path in (
        "/mlflow/../v1/whoami", "/mlflow/..%2fv1/whoami", "/mlflow/%2e%2e/v1/whoami", "/mlflow//v1/whoami",
        "/mlflow/./version", "/mlflow/static-files/../version", "/mlflow/static-files/..%2f..%2f__init__.py",
        "/mlflow/static-files/%2e%2e/%2e%2e/__init__.py", "/mlflow/static-files/..\\x", "/mlflow/version%00",
        "/mlflow/static-files/%252e%252e/x", "/mlflow%2fversion", "/mlflow/api%2f2.0%2fmlflow",
        "/mlflow;/version",
        "/Mlflow/version", "/mlflowx/version", "//mlflow/version", "/mlflow/version/", "/mlflow/\u2028",
        "/mlflow/static-files/x/../../api/2.0/mlflow/registered-models/alias",
        "/mlflow/api/2.0/mlflow/runs/search/../../registered-models/alias",
        "/mlflow/api/2.0/mlflow/runs/search%2f..%2f..%2fregistered-models/alias",
        "/mlflow/api/2.0/mlflow/registered-models/alias/", "/mlflow/api/2.0/mlflow/registered-models//alias",
        "/mlflow/api/2.0/mlflow/registered-models/alias%20", "/mlflow/API/2.0/mlflow/registered-models/alias",
        "/mlflow/api/2.0/mlflow/registered-models/alia%73", "/mlflow/graphql/../api", "/mlflow/graphql%0a",
    ):  # fmt: skip
        for method in ("GET", "POST", "DELETE"):
            head = (
                f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
                f"Authorization: Bearer {standing.tokens['operator']}\r\nX-HTTP-Method-Override: POST\r\n\r\n"
            )
            answer = _raw(standing.served, head.encode() + body)
            alias_read = path.endswith("alia%73") and method == "GET"
            assert answer.split(b" ")[1] in (b"400", b"403", b"404", b"405") or alias_read, (
                method,
                path,
                answer,
            )
            assert b"the operator" not in answer or b"service account" in answer
    assert standing.everything() == before


def test_what_a_client_says_of_hosts_and_of_itself_is_not_passed_on(tmp_path: Path) -> None:
    """A server in MLflow's place tells what it was sent."""
    home = tmp_path / "home"
    with serving(home, free_port()) as served, _Echo(ui_socket(home)) as echo:
        token = served.people.add("rita", "reviewer")
        lies = {
            "Host": "evil.example", "X-Forwarded-For": "10.0.0.1", "X-Forwarded-Host": "evil.example",
            "Forwarded": "for=10.0.0.1", "Cookie": "a=b", "X-MLflow-Workspace": "other", "Range": "bytes=0-1",
            "X-Remote-User": "admin", "Connection": "keep-alive, X-Secret", "X-Secret": "1",
        }  # fmt: skip
        with served.client(token, lies) as client:
            answer = client.get("/mlflow/version?a=%2F..%2F&b=c")
        assert echo.head.startswith(b"GET /version?a=%2F..%2F&b=c HTTP/1.1\r\n")
        sent = echo.head.lower()
        assert b"host: localhost\r\n" in sent
        assert b"range: bytes=0-1" in sent
        for word in (
            b"evil",
            b"10.0.0.1",
            b"cookie",
            b"workspace",
            b"remote",
            b"secret",
            b"bearer",
            token.encode(),
        ):
            assert word not in sent
        assert answer.text == "hello"
        for name in ("set-cookie", "x-of-mlflow", "access-control-allow-origin", "location", "keep-alive"):
            assert name not in answer.headers
    with serving(home, free_port()) as served, served.client(token) as client:
        away = client.get("/mlflow/version")
        assert (away.status_code, "starts some seconds after" in away.text) == (503, True)


class _Echo:
    """Answers one request at a socket, and keeps its head."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True)
        self._folder = os.open(path.parent, os.O_PATH)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"/proc/self/fd/{self._folder}/{path.name}")
        self._listener.listen()
        self.head = b""

    def __enter__(self) -> _Echo:
        import threading

        self._thread = threading.Thread(target=self._answer)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listener.close()
        os.close(self._folder)

    def _answer(self) -> None:
        line, _ = self._listener.accept()
        with line:
            while b"\r\n\r\n" not in self.head:
                self.head += line.recv(65_536)
            line.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nSet-Cookie: a=b\r\nX-Of-MLflow: 1\r\n"
                b"Keep-Alive: 5\r\n"
                b"Access-Control-Allow-Origin: *\r\nLocation: http://localhost/x\r\n\r\nhello"
            )


def test_a_file_that_was_logged_streams_and_runs_nothing(standing: Standing) -> None:
    with standing.client("scientist") as client:
        query = {"path": "page.html", "run_id": standing.runs[0]}
        page = client.get("/mlflow/get-artifact", params=query)
        assert page.text == PAGE
        assert page.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["cache-control"] == "no-store"
        large = client.get("/mlflow/get-artifact", params={**query, "path": "large.txt"})
        assert large.content == b"x" * LARGE
        for path in ("../../../../mlflow.db", "/etc/passwd", "..%2f..%2fmlflow.db"):
            assert client.get("/mlflow/get-artifact", params={**query, "path": path}).status_code >= 400
        policy = client.get("/mlflow/").headers["content-security-policy"]
        assert policy.startswith("default-src 'self'; script-src 'self'")
        assert client.get("/v1/whoami").headers["content-security-policy"].startswith("default-src 'none'")


def test_bodies_that_are_huge_or_do_not_come(standing: Standing, monkeypatch: pytest.MonkeyPatch) -> None:
    token = standing.tokens["reviewer"]
    head = f"POST {REST}runs/search HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    for line, code in ((f"Content-Length: {MOST_BODY + 1}", b"413"), ("Transfer-Encoding: chunked", b"411")):
        assert _raw(standing.served, f"{head}{line}\r\n\r\n".encode()).split(b" ")[1] == code
    monkeypatch.setattr(server.api.door, "_BODY_SECONDS", 0.5)
    answer = _raw(standing.served, f"{head}Content-Length: 100\r\n\r\n".encode() + b'{"a')
    assert answer.split(b" ")[1] == b"408"


def test_clients_that_take_nothing_are_given_up_and_shut_nobody_out(
    standing: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_TAKE_SECONDS", 2.0)
    monkeypatch.setattr(server.api.mlflow_proxy, "_MOST_OF_A_PERSON", 3)
    tls = ssl.create_default_context(cafile=str(standing.served.files.authority))
    head = (
        f"GET /mlflow/get-artifact?path=large.txt&run_id={standing.runs[0]} HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {standing.tokens['scientist']}\r\n\r\n"
    )
    lines, open_before = [], psutil.Process().num_fds()
    for _ in range(3):
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", standing.served.file.api_port))
        line = tls.wrap_socket(raw, server_hostname="127.0.0.1")
        line.sendall(head.encode())
        assert line.recv(10) == b"HTTP/1.1 2"
        lines.append(line)
    with standing.client("scientist") as same, standing.client("reviewer") as other:
        assert other.get("/mlflow/version").status_code == 200
        seen, end = set(), time.monotonic() + 300
        while (code := same.get("/mlflow/version").status_code) != 200:
            seen.add(code)
            assert time.monotonic() < end
            time.sleep(0.1)
        assert seen <= {503}
    for line in lines:
        line.close()
    end = time.monotonic() + 300
    while psutil.Process().num_fds() > open_before:  # nothing of them is kept
        assert time.monotonic() < end
        time.sleep(0.1)


def test_what_is_passed_on_is_written_anew() -> None:
    body = b'{"run_id": "a", "key": "tidegate.x", "key": "seen", "value": "1"}'
    passed = allowed_body("POST", "/api/2.0/mlflow/runs/set-tag", body, "reviewer")
    assert (json.loads(passed), b"tidegate" in passed) == (
        {"run_id": "a", "key": "seen", "value": "1"},
        False,
    )


def test_what_graphql_calls_mutations_changes_nothing() -> None:
    """`/graphql` is open to all who read: a new MLflow may come with more."""
    from mlflow.server.graphql.graphql_schema_extensions import Mutation

    assert set(Mutation._meta.fields) == {"mlflow_search_datasets", "mlflow_search_runs", "testMutation"}


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs another user")
def test_another_user_of_the_machine_reaches_nothing(standing: Standing) -> None:
    path = ui_socket(standing.served.settings.home)
    assert path.is_socket()
    home, isolated = path.parents[1], [sys.executable, "-I", "-c"]
    script = (
        "import os, socket, sys\nos.chdir(sys.argv[1])\nprint('at the door')\n"
        "line = socket.socket(socket.AF_UNIX); line.connect('mlflow/mlflow.sock')\n"
        "line.sendall(b'GET /version HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n'); print(line.recv(99))"
    )
    shut = {
        folder: folder.stat().st_mode for folder in path.parents if folder not in (path.parent, Path("/"))
    }
    try:
        for folder, mode in shut.items():
            folder.chmod(mode | 0o055)  # the socket's own folder alone is to keep others out
        own, other = (
            subprocess.run([*who, *isolated, script, str(home)], capture_output=True, text=True, check=False)
            for who in ([], ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"])
        )
    finally:
        for folder, mode in shut.items():
            folder.chmod(mode)
    assert "200" in own.stdout, own.stderr
    assert other.stdout == "at the door\n"
    assert "PermissionError" in other.stderr
    listening = {
        one.laddr.port
        for process in _tree(standing.processes.process_ids()["mlflow"])
        for one in process.net_connections("inet")
        if one.status == psutil.CONN_LISTEN
    }
    assert not listening


def test_the_database_is_named_in_no_process_list(standing: Standing) -> None:
    """Its address may hold a password."""
    for process in _tree(standing.processes.process_ids()["mlflow"]):
        assert "mlflow.db" not in " ".join(process.cmdline())


def _tree(process_id: int) -> list[psutil.Process]:
    process = psutil.Process(process_id)
    return [process, *process.children(recursive=True)]


def _raw(served: Served, request: bytes) -> bytes:
    """What the server answers to these bytes, until it closes or says no more."""
    tls = ssl.create_default_context(cafile=str(served.files.authority))
    with (
        socket.create_connection(("127.0.0.1", served.file.api_port), timeout=60) as raw,
        tls.wrap_socket(raw, server_hostname="127.0.0.1") as line,
    ):
        line.sendall(request)
        answer = b""
        while part := line.recv(65_536):
            answer += part
            if b"\r\n\r\n" in answer and b"onnection: close" not in answer:
                break
    return answer


def test_a_reviewer_decides_by_a_tag_of_the_version_and_nobody_else(standing: Standing) -> None:
    """In MLflow's own page, which sends a tag by this call; who is refused, for what, and in which words."""
    state = standing.served.state
    for number in (1, 2):
        state.start_run(f"r{number}", experiment=plan(), job="train", trigger="t", code_hash="c")
        state.link_run(f"r{number}", model_version=number)

    def asked(
        role: Role, value: str, version: str = "2", key: str = "review", path: str = AJAX, name: str = NAME
    ) -> httpx.Response:
        body = {"name": name, "version": version, "key": key, "value": value}
        with closing(standing.browser(role)) as client:
            return client.post(f"{path}model-versions/set-tag", json=body)

    refused = (
        ("scientist", "approve: good", "2", 403, "a scientist reads here"),
        ("operator", "approve: good", "2", 403, "an operator does not decide on versions"),
        ("reviewer", "approve", "2", 400, "write `approve: WHY` or `refuse: WHY`"),
        ("reviewer", "fine by me", "2", 400, "write `approve: WHY`"),
        ("reviewer", "approve: \x1b[2J", "2", 400, "cannot be recorded"),
        ("reviewer", "approve: good", "9", 400, "there is no version 9"),
        ("reviewer", "approve: good", "2 ", 400, "it is a number"),
    )  # fmt: skip
    before = standing.everything(), state.decisions()
    for name in ("a'b", f"{NAME}' and name='{NAME}", "x" * 300, ""):
        answer = asked("reviewer", "refuse: no", name=name)
        assert (answer.status_code, "no model is called so" in answer.json()["message"]) == (400, True), name
    began = time.process_time()
    assert asked("reviewer", "approve x" + " " * 45_000 + "x").status_code == 400
    assert time.process_time() - began < 5  # a pattern that tries each of the blanks took 13 s
    for key in ("\uff52eview", "rev\u0131ew", "\uff54idegate.review"):
        assert asked("reviewer", "approved by the reviewer: x", key=key).status_code == 400
    for role, value, version, status, words in refused:
        answer = asked(role, value, version)  # type: ignore[arg-type]
        assert (answer.status_code, words in answer.json()["message"]) == (status, True), answer.text
    assert (standing.everything(), state.decisions()) == before
    assert asked("reviewer", "Approve: all sites are in", key="Review", path=REST).status_code == 200
    assert [(one.kind, one.by, one.reason) for one in state.decisions(NAME)] == [
        ("approve", "the reviewer", "all sites are in"),
        ("promote", "review", "approved by the reviewer"),
    ]
    (second,) = [one for one in standing.versions() if one.version == 2]
    assert second.aliases == (CHAMPION,)
    assert second.tags["review"] == "approved by the reviewer: all sites are in"
    assert second.tags["tidegate.review"] == "in service"
    again = asked("reviewer", "approve: once more")
    assert (again.status_code, "is in service already" in again.json()["message"]) == (400, True)
    assert asked("reviewer", "refuse: south is missing", "1").status_code == 200
    assert state.decisions(NAME)[-1].kind == "refuse"


def test_what_was_changed_behind_a_reviewer_is_refused_with_a_sentence(standing: Standing) -> None:
    """Not as a part of the server that is away; and whoever's token was taken back meanwhile is nobody."""
    state, registry = standing.served.state, standing.registry
    known = RegisteredVersions(state.database)
    known.add_passport(NAME, 1, "# Model passport")
    standing.registry.describe(NAME, 1, "All fine")
    body = {"name": NAME, "version": "1", "key": "review", "value": "approve: good"}
    with standing.client("reviewer") as client:
        answer = client.post(f"{REST}model-versions/set-tag", json=body)
        assert (answer.status_code, "was changed there" in answer.json()["message"]) == (409, True), (
            answer.text
        )
        assert "was refused at" in standing.served.log
        (arrays,) = (
            path for path in Path(registry.artifact_root).rglob("arrays.npz") if standing.runs[0] in str(path)
        )
        kept = arrays.read_bytes()
        arrays.write_bytes(b"others")
        answer = client.post(f"/v1/models/{NAME}/versions/1/approve", json={"reason": "good"})
        assert (answer.status_code, "not those that were registered" in answer.json()["what"]) == (409, True)
        arrays.write_bytes(kept)
    token = standing.served.people.add("gone", "reviewer")
    with standing.served.client(token) as client:

        def parts() -> Iterator[bytes]:
            text = json.dumps(body).encode()
            yield text[:20]
            standing.served.people.revoke("gone")
            yield text[20:]

        answer = client.post(
            f"{REST}model-versions/set-tag", content=parts(), headers={"Content-Type": "application/json"}
        )
        assert answer.status_code in (400, 401, 411), answer.text
    assert not [one for one in state.decisions(NAME) if one.by == "gone"]
