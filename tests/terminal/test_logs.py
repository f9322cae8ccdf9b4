"""Nobody outside writes a line of a log: not by a message, not by an error's words."""

from __future__ import annotations

import io
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from server import app as server_app
from terminal import logs
from terminal.logs import FewWarnings, PlainRecords, log_files, rotate_output
from tests.commands import plain_environment
from tests.hostile import HOSTILE, require_harmless

FORGED = "x\n2026-11-29 03:00:00,000 INFO tidegate.agent: site 'north' is connected to evil:1 as node 5"


@pytest.fixture
def log() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.addFilter(PlainRecords())
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("tests.plain")
    logger.propagate = False
    logger.addHandler(handler)
    yield logger, text
    logger.removeHandler(handler)


def test_a_record_is_one_visible_line(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, text = log
    logger.error("refused %s: %s", HOSTILE, FORGED)
    require_harmless(text.getvalue())
    assert text.getvalue().count("\n") == 1
    assert r"\n2026-11-29" in text.getvalue()


def test_no_line_of_a_traceback_passes_for_a_record(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, text = log
    try:
        int(HOSTILE + FORGED)
    except ValueError:
        logger.exception("failed %s", FORGED)
    require_harmless(text.getvalue())
    first, *rest = text.getvalue().splitlines()
    assert first.startswith("ERROR tests.plain: failed x")
    assert len(rest) > 3
    assert all(line.startswith("| ") for line in rest)


def test_a_percent_sign_from_outside_is_no_format(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, text = log
    logger.error("refused %s", "100 %s %d")
    assert "refused 100 %s %d" in text.getvalue()


def test_two_handlers_write_the_same(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, text = log
    other = io.StringIO()
    handler = logging.StreamHandler(other)
    handler.addFilter(PlainRecords())
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.error("%s", HOSTILE + "w" * 5000)
    logger.removeHandler(handler)
    assert other.getvalue() == text.getvalue()
    assert len(text.getvalue()) < 2200


def test_the_servers_log_is_plain_too() -> None:
    assert server_app
    assert any(isinstance(item, PlainRecords) for item in logging.getLogger("flwr").filters)


PROGRAM = f"""
import logging, os, sys
os.umask(0)
from pathlib import Path
from terminal.logs import log_to, prepare_output
prepare_output()
logging.getLogger("tidegate.site").error("without a handler %s", {HOSTILE!r})
log_to(Path(sys.argv[1]))
logging.getLogger("tidegate.agent").info("ε %s", {HOSTILE!r})
logging.getLogger("flwr").warning("retrying in 0.95 seconds")  # a line a second while a server is away
print("ε – █ done")
raise ValueError({HOSTILE!r})
"""


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_process_writes_in_any_encoding(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "logs" / "agent.log"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)],
        env={**plain_environment(), "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        capture_output=True,
        timeout=600,
        check=False,
    )
    told, errors = done.stdout.decode(encoding), done.stderr.decode(encoding)
    require_harmless(told)
    require_harmless(errors)
    assert told.endswith("done\n")
    assert "Logging error" not in errors
    assert "without a handler" in errors
    assert "| ValueError: [/x]" in errors
    require_harmless(path.read_text(encoding="utf-8"))
    assert path.read_text(encoding="utf-8").count("\n") == 1
    assert path.parent.stat().st_mode & 0o777 == 0o700  # whatever the umask
    assert path.stat().st_mode & 0o777 == 0o600


def test_who_reads_through_a_pipe_follows_line_by_line() -> None:
    program = (
        "import sys; from terminal.logs import prepare_output; prepare_output(); "
        "print('round 1'); sys.stdin.readline(); print('round 2')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=plain_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "round 1\n"  # it waits, and this is here
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "round 2\n"


WRITERS = """
import logging, sys
from pathlib import Path
from terminal import logs
logs._LARGEST = 4000
logs.log_to(Path(sys.argv[1]))
for number in range(200):
    logging.getLogger("tidegate.agent").info("line %d of writer %s %s", number, sys.argv[2], "w" * 60)
"""


def test_a_log_to_which_two_processes_write_is_bounded_and_loses_no_recent_line(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "agent.log"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITERS, str(path), name], stderr=subprocess.DEVNULL)
        for name in "ab"
    ]
    assert [writer.wait(300) for writer in writers] == [0, 0]
    files = log_files(path)
    assert [file.name for file in files] == ["agent.log", *(f"agent.log.{number}" for number in range(1, 6))]
    assert sorted(file.name for file in path.parent.iterdir()) == sorted(file.name for file in files)
    assert max(file.stat().st_size for file in files) < 4000 + 2 * 200
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    kept = "".join(file.read_text() for file in reversed(files))
    for writer in "ab":
        numbers = [int(number) for number in re.findall(rf"line (\d+) of writer {writer}", kept)]
        assert numbers == list(range(200))[200 - len(numbers) :]
    assert len(kept) > 5 * 4000 - 500


def test_a_log_whose_folder_forbids_it_is_written_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_LARGEST", 100)
    monkeypatch.setattr(logs, "_shift", refuse)
    handler = logs.RotatingFile(tmp_path / "agent.log")
    for number in range(10):
        handler.emit(logging.makeLogRecord({"msg": f"line {number} {'w' * 60}"}))
    handler.close()
    assert (tmp_path / "agent.log").read_text().count("line") == 10


def refuse(_path: Path) -> None:
    raise PermissionError(13, "Permission denied")


@pytest.fixture
def said() -> Iterator[tuple[logging.Logger, list[str]]]:
    """A logger through what `log_to` makes, and what comes out."""
    lines: list[str] = []
    out = logging.Handler()
    out.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    once = logs._Once([out])
    once.addFilter(PlainRecords())
    logger = logging.getLogger("test-once")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(once)
    yield logger, lines
    logger.removeHandler(once)
    once.close()


def test_a_warning_that_comes_again_is_counted_and_the_count_is_said(
    said: tuple[logging.Logger, list[str]],
) -> None:
    logger, lines = said
    for _ in range(720):
        logger.warning("the server at %s is away", "host:1")
    assert lines == ["the server at host:1 is away"]
    logger.info("connected")
    assert re.fullmatch(
        r"the server at host:1 is away \[719 times more, the last at [-0-9]+ [:0-9]+ UTC\]", lines[1]
    )
    assert lines[2:] == ["connected"]


def test_a_count_is_said_each_hour_and_at_the_end(said: tuple[logging.Logger, list[str]]) -> None:
    logger, lines = said
    for number in range(10):
        record = logger.makeRecord("a", logging.WARNING, "f", 1, "away", (), None)
        record.created = number * 1000.0
        logger.handle(record)
    assert [line.partition(",")[0] for line in lines] == ["away", "away [4 times more", "away [4 times more"]
    logger.handlers[0].close()
    assert lines[3].startswith("away [1 times more")


def test_what_differs_and_what_tells_of_a_state_is_always_said(
    said: tuple[logging.Logger, list[str]],
) -> None:
    logger, lines = said
    for words in ("connected", "connected", "one", "two", "one"):
        (logger.info if words == "connected" else logger.error)(words)
    assert lines == ["connected", "connected", "one", "two", "one"]
    for _ in range(2):
        logger.error("failed", exc_info=ValueError("again"))
    assert lines[5:] == ["failed", "failed"]


def test_what_another_process_appends_to_is_bounded_while_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_LARGEST", 4000)
    path = tmp_path / "superlink.log"
    rotate_output(path)  # that there is none is no fault
    with path.open("ab", buffering=0) as child:
        for number in range(500):
            child.write(f"line {number} {'w' * 60}\n".encode())
            rotate_output(path)
    files = log_files(path)
    assert len(files) == 6
    assert max(file.stat().st_size for file in files) <= 4100
    kept = "".join(file.read_text() for file in reversed(files))
    numbers = [int(number) for number in re.findall(r"line (\d+) ", kept)]
    assert numbers == list(range(500))[500 - len(numbers) :]
    assert len(numbers) > 250


def test_a_burst_is_cut_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_LARGEST", 4000)
    path = tmp_path / "superlink.log"
    path.write_bytes(b"a" * 9000 + b"the end")
    rotate_output(path)
    assert path.read_bytes() == b""
    assert (tmp_path / "superlink.log.1").read_bytes() == b"a" * 7993 + b"the end"


def test_without_room_for_a_copy_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_LARGEST", 10)
    path, old = tmp_path / "superlink.log", tmp_path / "superlink.log.1"
    path.write_bytes(b"b" * 20)
    old.write_bytes(b"earlier")
    command = "import resource, signal, sys; from pathlib import Path; from terminal import logs\n"
    command += "logs._LARGEST = 10; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    command += "resource.setrlimit(resource.RLIMIT_FSIZE, (5, 5))\n"
    command += "for _ in range(9): logs.rotate_output(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", command, str(path)], check=True, timeout=300)
    assert path.read_bytes() == b"b" * 20
    assert old.read_bytes() == b"earlier"
    assert sorted(tmp_path.iterdir()) == [path, old]


def test_strangers_do_not_write_a_log_full(log: tuple[logging.Logger, io.StringIO]) -> None:
    written, stream = log
    few = FewWarnings()
    written.addFilter(few)
    try:
        for number in range(10_000):
            written.warning("somebody says %s", number)
        written.error("the disk is full")
        assert len(stream.getvalue().splitlines()) == 61
        few._since -= 60  # a minute later
        written.warning("somebody says %s", "hello")
    finally:
        written.removeFilter(few)
    assert "somebody says hello [9940 others were left out]" in stream.getvalue()
