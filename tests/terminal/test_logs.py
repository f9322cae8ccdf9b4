"""Nobody outside writes a line of a log: not by a message, not by an error's words."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from server import app as server_app
from terminal.logs import PlainRecords
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
