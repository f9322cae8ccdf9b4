"""`tidegate bench rounds`: what it makes of its measurements, and the parts that need no SuperNode."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from contract.errors import RoundError
from contract.messages import Instruction, Reply
from experiments.benchmarks import lines, rounds_delayed, rounds_heart, rounds_trial, scientist_start
from experiments.benchmarks.http_calls import Call, record_calls
from experiments.benchmarks.measurement import Measurement, to_json
from experiments.benchmarks.raw_tls import seconds_over_tls
from experiments.benchmarks.rounds import Figures, _or_why, table
from experiments.benchmarks.rounds_app.bench_rounds.client_app import app
from experiments.benchmarks.rounds_trial import Outcome
from server.exchange.answers import instruct
from server.line.flower import assume_identity, build_bundle

_KNOCK = """
import socket, time
began = time.monotonic()
try:
    socket.create_connection(("10.79.1.2", 9), timeout=60)
except ConnectionRefusedError:
    print(time.monotonic() - began)
"""


def outcome(*seconds: float, sites: int = 4, counted: int | None = None) -> Outcome:
    times = []
    for number, taken in enumerate(seconds):
        times.append((100.0 * number, 100.0 * number + taken, sites if counted is None else counted))
    calls: dict[str, list[Call]] = {
        "site": [
            (100.0, "/v1/fleet/pull-messages", 0.02),
            (100.1, "/v1/fleet/pull-messages", 0.04),
            (200.0, "/v1/fleet/push-object", 0.01),
            (150.0, "/v1/fleet/pull-messages", 9.0),  # between rounds
            (0.0, "/v1/fleet/get-fab", 9.0),  # in the first
        ],
        "server": [(100.2, "/v1/runtime/push-messages", 0.001)],
    }
    return Outcome(rounds=tuple(times), sites=sites, calls=calls)


def test_the_first_round_does_not_count() -> None:
    assert outcome(9.0, 0.2, 0.4, 0.3).median == pytest.approx(0.3)
    assert outcome(9.0).median == 9.0


def test_a_second_trial_adds_its_steady_rounds_alone() -> None:
    both = outcome(9.0, 0.2).and_then(outcome(9.0, 0.4, counted=3))
    assert both.median == pytest.approx(0.3)
    assert (both.expected, both.missing) == (12, 1)
    assert len(both.calls["site"]) == 5  # a site that was in both trials tells of both in the second


def test_requests_are_counted_by_kind_within_the_rounds() -> None:
    found = outcome(9.0, 0.5, 0.5)
    assert found.by_kind() == {
        "site pull-messages": (1.0, pytest.approx(0.03)),
        "site push-object": (0.5, pytest.approx(0.01)),
        "server push-messages": (0.5, pytest.approx(0.001)),
    }
    assert found.breakdown().startswith("2 requests a round: 1 site pull-messages of 30.0 ms")


def test_a_part_that_fails_costs_no_other_its_figures() -> None:
    def failing() -> list[Measurement]:
        raise RoundError("2 of 3 rounds after 900 s", where="logs")

    (row,) = _or_why("heart disease", failing)
    assert row.name == "heart disease"
    assert "2 of 3 rounds" in row.note
    assert not row.holds
    assert to_json([row])[0]["ours"] is None


def figures(few: Outcome, many: Outcome, most: Outcome) -> Figures:
    return Figures(
        raw=1.0,
        noop=outcome(1, 0.2),
        large=outcome(1, 2.5),
        stock_noop=outcome(1, 6.0),
        stock_large=outcome(12.0),
        few=few,
        many=many,
        most=most,
    )


def test_the_table() -> None:
    most = outcome(1, 9.6, sites=256)
    rows = table(figures(outcome(1, 0.5, sites=16), outcome(1, 1.5, sites=64), most))
    assert [(row.unit, row.ours, row.theirs, row.goal, row.holds) for row in rows] == [
        ("s", pytest.approx(0.2), pytest.approx(6.0), 0.15, False),
        ("ratio over raw TLS", pytest.approx(2.5), pytest.approx(12.0), 1.5, False),
        ("ratio", pytest.approx(0.75), None, 1.1, True),
        ("ratio", pytest.approx(1.2), None, 1.1, False),
    ]
    assert all("requests a round" in row.note for row in rows)


def test_a_missing_answer_is_no_success() -> None:
    most = outcome(1, 9.6, sites=256, counted=255)
    rows = table(figures(outcome(1, 0.5, sites=16), outcome(1, 1.5, sites=64, counted=63), most))[-2:]
    assert all(math.isnan(row.ours) and not row.holds for row in rows)
    assert "missing: 2 of 160" in rows[0].note
    assert "missing: 2 of 544" in rows[1].note


def test_a_round_over_long_lines_is_counted_in_times_there_and_back() -> None:
    (row,) = rounds_delayed.table(outcome(9.0, 0.4, 0.2, 0.4, 0.8), "")
    assert (row.ours, row.goal, row.holds) == (pytest.approx(5.0), 8.0, True)
    assert "nine of ten within 10.0" in row.note
    (lost,) = rounds_delayed.table(outcome(1.0, 0.2, counted=3), "")
    assert math.isnan(lost.ours)
    assert not lost.holds


def test_without_hosts_the_row_says_what_they_need(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    (row,) = rounds_delayed.measure(tmp_path)
    assert math.isnan(row.ours)
    assert not row.holds
    assert row.note == "not measured: network namespaces need root"


@pytest.mark.skipif(bool(lines.lacking()), reason=lines.lacking() or "-")
def test_a_line_between_two_hosts_holds_what_it_carries(tmp_path: Path) -> None:
    name = f"tgt{os.getpid() % 100_000}"
    with lines.space(f"{name}-one") as one, lines.space(f"{name}-other") as other:
        line = lines.lay_line((one, other), (f"{name}a", f"{name}b"), ("10.79.1.1", "10.79.1.2"), 30.0, 0.0)
        try:
            # without the watch on connections: these two hosts are on this machine
            command = ["ip", "netns", "exec", one, sys.executable, "-I", "-c", _KNOCK]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            assert float(said) >= 0.06  # there, and back that nobody listens
        finally:
            line.kill()
            line.wait()
    assert (
        f"{name}-" not in subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    )


def test_heart_disease_has_its_rows_with_and_without_the_data_set() -> None:
    heart = rounds_heart.Heart(round=0.3, exchange=0.25, core=0.004, megabytes=118.0, worker_megabytes=350.0)
    rows = rounds_heart.table(heart, heart)
    assert [(row.unit, row.ours, row.goal, row.holds) for row in rows] == [
        ("s", 0.3, 0.4, True),
        ("%", pytest.approx(0.4), 1.0, True),
        ("MB", 118.0, 150.0, True),
    ]
    absent = rounds_heart.table(None, None)
    assert [row.name for row in absent] == [row.name for row in rows]
    assert all(math.isnan(row.ours) and not row.holds and "TIDEGATE_DATA_DIR" in row.note for row in absent)


def test_bytes_come_over_one_tls_connection(tmp_path: Path) -> None:
    assert 0 < seconds_over_tls(tmp_path, parts=2, part_bytes=3_000_001) < 10


def test_every_request_is_recorded_also_one_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpx.Client, "send", httpx.Client.send)  # put back afterwards
    calls: list[Call] = []
    record_calls(calls.append)

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/cut":
            raise httpx.ConnectError("cut")
        return httpx.Response(200)

    with httpx.Client(transport=httpx.MockTransport(answer), base_url="https://a") as client:
        client.post("/v1/fleet/pull-messages")
        with pytest.raises(httpx.ConnectError):
            client.post("/cut")
    assert [path for _, path, _ in calls] == ["/v1/fleet/pull-messages", "/cut"]
    assert all(seconds >= 0 for *_, seconds in calls)


@pytest.mark.parametrize(
    ("engine", "kind", "megabytes", "values"),
    [("ours", "noop", 0, 0), ("ours", "bytes", 2, 500_000), ("stock", "bytes", 2, 2_000_000)],
)
def test_the_app_answers_with_as_many_bytes_as_asked(
    engine: str, kind: str, megabytes: int, values: int
) -> None:
    """Ours a byte a parameter, as the gate sends them; stock Flower's four."""
    assume_identity(5)
    (message,) = instruct([7], f"query.{kind}", Instruction(run="bench", step=1), None)
    message.metadata.__dict__["_message_id"] = "ab" * 32
    config: dict[str, bool | float | int | str] = {"megabytes": str(megabytes), "engine": engine}
    context = Context(run_id=5, node_id=7, node_config={}, state=RecordDict(), run_config=config)
    reply: Message = app(message, context)
    arrays = Reply.from_records(reply.content).update
    size = 0 if arrays is None else sum(array.nbytes for array in arrays.arrays.values())
    assert size == values
    assert all(isinstance(record, ConfigRecord) for record in reply.content.values())


def test_the_bundle_of_the_app_is_small() -> None:
    with zipfile.ZipFile(BytesIO(build_bundle(rounds_trial._APP))) as archive:
        names = {name for name in archive.namelist() if name.endswith(".py")}
    assert names == {f"bench_rounds/{name}.py" for name in ("__init__", "client_app", "server_app")}


def test_the_wait_for_the_first_round_is_the_median_of_what_people_waited() -> None:
    waits = [scientist_start.Waits(submitted=0.5, first_round=seconds) for seconds in (9.0, 2.0, 2.5)]
    (row,) = scientist_start.table(waits)
    assert (row.ours, row.goal, row.holds) == (2.5, 3.0, True)
    assert "9.0, 2.0, 2.5" in row.note
    (late,) = scientist_start.table([scientist_start.Waits(submitted=0.5, first_round=3.5)])
    assert not late.holds


def test_without_the_data_set_the_wait_for_the_first_round_is_no_number() -> None:
    (row,) = scientist_start.table([])
    assert math.isnan(row.ours)
    assert not row.holds
    assert "TIDEGATE_DATA_DIR" in row.note
