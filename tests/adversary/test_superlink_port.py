"""Who reaches the SuperLink's port without its secret gets no further than the Fleet API and the health page.

On a stock SuperLink each of these requests is answered: a run is any Python as the operator, and a task that
is taken away commands every site.
"""

from __future__ import annotations

import json
import socket
import ssl
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from flwr.proto.control_pb2 import ListNodesRequest, ListNodesResponse, StartRunRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.superexec.executor.types import ExecutionSpec

from contract.errors import AddressError
from server.federation import Federation, running_control
from server.line import secret
from server.line.flower import ControlClient
from server.line.processes import Processes
from server.settings import ServerSettings

pytestmark = pytest.mark.e2e

_TYPE = {"content-type": "application/protobuf"}
_TASK = AcquireTaskRequest(supported_task_types=["flwr-serverapp"]).SerializeToString()
_ATTACKS = {
    "a run of any Python": ("POST", "/v1/control/start-run", StartRunRequest().SerializeToString()),
    "the sites": ("POST", "/v1/control/list-nodes", b""),
    "all runs": ("POST", "/v1/control/list-runs", b""),
    "a site of one's own": ("POST", "/v1/control/register-node", b""),
    "a run's task": ("POST", "/v1/runtime/acquire-task", _TASK),
    "commands to sites": ("POST", "/v1/runtime/push-messages", b""),
    "all messages of a run": ("POST", "/v1/runtime/whole/push", b"\0\0\0\0"),
    "all replies of a run": ("POST", "/v1/runtime/whole/pull", b"\0\0\0\0"),
    "the way round": ("POST", "/v1/fleet/../control/list-nodes", b""),
    "the way round, written otherwise": ("POST", "/v1/fleet/%2e%2e/control/list-nodes", b""),
    "a doubled slash": ("POST", "//v1/control/list-nodes", b""),
    "a slash at the end": ("POST", "/v1/control/list-nodes/", b""),
    "another spelling": ("POST", "/V1/control/list-nodes", b""),
    "what there is": ("GET", "/openapi.json", b""),
    "a page for people": ("GET", "/docs", b""),
    "model responses": ("POST", "/v1/responses", b"{}"),
    "the health page's neighbour": ("GET", "/health/../docs", b""),
}


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    home = tmp_path_factory.mktemp("server")
    settings = ServerSettings(
        home=home,
        state_url=f"sqlite:///{home / 'state.db'}",
        tracking_uri=f"sqlite:///{home / 'mlflow.db'}",
        artifact_root=home / "artifacts",
    )
    with Processes(logs=home / "logs") as processes:
        federation = Federation(home=home, settings=settings, processes=processes)
        federation.start_server().close()
        yield federation


@pytest.fixture
def stranger(federation: Federation) -> Iterator[httpx.Client]:
    context = ssl.create_default_context(cafile=str(federation.files.authority))
    with httpx.Client(verify=context, base_url=f"https://{federation.address}", trust_env=False) as client:
        yield client


@pytest.mark.parametrize("attack", _ATTACKS)
@pytest.mark.parametrize("sends", [{}, {"tidegate-secret": ""}, {"tidegate-secret": "0" * 64}])
def test_a_stranger_gets_no_further(stranger: httpx.Client, attack: str, sends: dict[str, str]) -> None:
    method, path, content = _ATTACKS[attack]
    target = {"target": path.encode()}  # as it stands here: httpx would tidy the path
    answer = stranger.request(method, "/", content=content, headers={**_TYPE, **sends}, extensions=target)
    # on the Fleet API's paths nothing of this exists; anywhere else it is not even looked for
    assert answer.status_code == (404 if path.startswith("/v1/fleet/") else 403), answer.text
    assert b"node" not in answer.content


def test_a_secret_of_odd_letters_is_a_refusal(stranger: httpx.Client) -> None:
    answer = stranger.post("/v1/control/list-nodes", headers=[(b"tidegate-secret", b"\xff\xfe" * 32)])
    assert answer.status_code == 403


def test_who_is_not_asked_for_the_secret(stranger: httpx.Client, federation: Federation) -> None:
    assert stranger.get("/health").status_code == 200
    assert stranger.post("/v1/fleet/pull-messages", content=b"", headers=_TYPE).status_code == 401
    known = (federation.home / "superlink.secret").read_text()
    answer = stranger.post(
        "/v1/control/list-nodes",
        content=ListNodesRequest().SerializeToString(),
        headers={**_TYPE, "tidegate-secret": known},
    )
    assert answer.status_code == 200
    assert list(ListNodesResponse.FromString(answer.content).nodes_info) == []


def test_the_secret_is_in_one_file_of_this_user_and_nowhere_else(federation: Federation) -> None:
    file = federation.home / "superlink.secret"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    known = file.read_text()
    assert len(known) == 64
    started = psutil.Process(federation.processes.process_ids()["superlink"])
    end = time.monotonic() + 300
    while not (children := started.children(recursive=True)):  # the SuperExec
        assert time.monotonic() < end, "no SuperExec was started within 300 s"
        time.sleep(0.1)
    for process in (started, *children):
        assert known not in " ".join(process.cmdline())
        assert known not in json.dumps(process.environ())
    for log in federation.processes.logs.iterdir():
        assert known not in log.read_text()


def test_the_token_of_a_task_that_is_started_from_scratch_is_not_in_the_process_list(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = tmp_path / "said"
    script = (
        "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text(sys.stdin.readline() + repr(sys.argv))"
    )
    monkeypatch.setattr(secret, "_command", lambda _: [sys.executable, "-c", script, str(said)])
    task = ExecutionSpec(
        task_type="flwr-serverapp",
        runtime_api_address=federation.address,
        token="6f" * 32,
        insecure=False,
        root_certificates_path=str(federation.files.authority),
        runtime_dependency_install=False,
        parent_pid=1,
        suppress_output=False,
        task_id=1,
    )
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.close()  # the process from which it would be forked is gone
    with ours:
        assert secret._launch(ours, task).status == "accepted"
    end = time.monotonic() + 300
    while not said.exists() or not said.read_text():
        assert time.monotonic() < end, "the task's process did not say what it was given within 300 s"
        time.sleep(0.05)
    token, arguments = said.read_text().split("\n")
    assert token == task.token
    assert task.token not in arguments


def test_a_secret_that_is_lost_or_broken_is_one_sentence(federation: Federation, tmp_path: Path) -> None:
    settings = ServerSettings(**{**vars(federation.settings), "home": tmp_path})
    (tmp_path / "superlink.address").write_text(federation.address)
    with pytest.raises(AddressError, match=r"secret cannot be read: No such file.*start it again"):
        running_control(settings)
    (tmp_path / "superlink.secret").write_text("half")
    with pytest.raises(AddressError, match="there is none in it"):
        running_control(settings)
    (tmp_path / "superlink.secret").write_bytes(b"\xff" * 64)
    with pytest.raises(AddressError, match="there is none in it"):
        running_control(settings)


def test_another_server_s_secret_is_refused_in_words(federation: Federation) -> None:
    control = ControlClient(federation.address, federation.files.authority, "0" * 64)
    with pytest.raises(Exception, match="this is for the server's own processes"):
        control.connected()
    control.close()
