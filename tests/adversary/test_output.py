"""What came in a message is a name and nothing else: no path, no escape sequence, no script."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import psutil
import pytest

from experiments.audit.hostile_server import DRIFT, EVALUATE, HostileServer, instruction_for
from tests.adversary import wire
from tests.adversary.conftest import LaySite
from tests.adversary.rows import Figure, Rows

# -- paths ---------------------------------------------------------------------------

PATHS = {
    "upwards": ["../../../../written"],
    "of two names": ["..", "/../../../written"],
    "absolute": ["{outside}/written"],
    "home": ["~/written"],
    "endless": ["w" * 4000],
    "zero byte": ["w\0/../../../../written"],
    "a folder": ["w1/"],
    "a dot": [".."],
    "backslashes": ["..\\..\\written"],
}


@pytest.mark.parametrize("case", PATHS)
def test_no_name_of_a_window_becomes_a_path(
    lay: LaySite, rows: Rows, figure: Figure, case: str, really_drawn: Callable[[], int], tmp_path: Path
) -> None:
    site = lay(rows, cap=20.0)
    server = HostileServer(site)
    outside = site.parents[1]
    names = [name.replace("{outside}", str(outside)) for name in PATHS[case]]
    plan = wire.base_experiment()
    plan["task"]["time"] = None
    before = set(tmp_path.rglob("*"))
    for run, experiment in enumerate((wire.base_experiment(), plan)):
        told = instruction_for(DRIFT, run=f"r{run}", windows=names)
        server.ask(DRIFT, told, experiment=experiment)
    honest = server.ask(DRIFT, instruction_for(DRIFT, run="honest"))
    asked = really_drawn()
    written = [path for path in tmp_path.rglob("*") if path not in before and path.is_file()]
    pages = [path for path in written if path.suffix == ".html" and path.name != "index.html"]
    wrong = [path for path in written if site.parent not in path.parents]
    odd = [path for path in written if any(name in path.name for name in names)]
    found = ", ".join(os.path.relpath(path, site.parent) for path in [*wrong, *odd])
    figure(f"window {names!r:.60}: {asked} reports, {found or 'none'} of that name or elsewhere")
    assert not honest.refused
    assert pages
    assert not wrong
    assert not odd


# -- terminals --------------------------------------------------------------------------

NAMES = {
    "markup": "[/x]",
    "half of a markup": "[bold red]r[/",
    "a link": "[link=file:///etc/passwd]r[/link]",
    "an escape sequence": "\x1b[2J\x1b[31mspent nothing",
    "another": "\x9b2Jr",
    "a title": "\x1b]0;owned\x07",
    "a lone surrogate": "r\ud800",
    "backwards": "r\u202etxt.exe",
    "lines": "r\n1 fake entry\r\n",
    "a zero byte": "r\0",
    "endless": "r" * 100_000,
}
COMMANDS = (
    ("egress",),
    ("egress", "--json"),
    ("ledger",),
    ("ledger", "--entries"),
    ("ledger", "--entries", "--json"),
    ("ledger", "--verify"),
    ("status",),
    ("drift",),
)


def harmful(printed: str) -> set[str]:
    """The characters that a terminal obeys instead of showing them."""
    kinds = {letter: unicodedata.category(letter) for letter in set(printed) - {"\n"}}
    return {repr(letter) for letter, kind in kinds.items() if kind in ("Cc", "Cf", "Cs")}


@pytest.mark.parametrize("case", NAMES)
def test_no_name_harms_who_looks_at_the_books(lay: LaySite, rows: Rows, figure: Figure, case: str) -> None:
    site = lay(rows, cap=20.0)
    server = HostileServer(site)
    server.ask(EVALUATE, instruction_for(EVALUATE, run="honest"))
    named = server.ask(EVALUATE, instruction_for(EVALUATE, run=NAMES[case]))
    server.ask(EVALUATE, instruction_for(EVALUATE, run="window", windows=[NAMES[case]]))
    harm = []
    for command in COMMANDS:
        code, printed = wire.command("site", command[0], str(site), *command[1:])
        if code != 0 or harmful(printed):
            harm.append(f"{' '.join(command)}: exit code {code} {' '.join(sorted(harmful(printed)))}".strip())
        if "--json" in command and code == 0:
            json.loads(printed)
    figure(f"run named {NAMES[case]!r:.40} ({named.word or 'answered'}): {'; '.join(harm) or 'harmless'}")
    assert not harm


# -- pages --------------------------------------------------------------------------------

SCRIPT = "</script><script>document.title='owned'</script>"
VALUES = [
    SCRIPT,
    "<!--",
    "]]>",
    "\u2028",
    '"><img src=x onerror=alert(1)>',
    "</ScRiPt ><svg/onload=alert(1)>",
]


@pytest.mark.xdist_group("evidently")
def test_no_value_runs_in_the_drift_report(tmp_path: Path, figure: Figure) -> None:
    html = wire.write_drift_report(tmp_path / "report.html", [*VALUES, "a", "b"] * 10, ["a", "b", SCRIPT])
    opened = (
        html.count("<script>document.title") + html.lower().count("</script ><svg") + html.count("<img src=x")
    )
    policy = "Content-Security-Policy" in html
    figure(f"scripts of values that run in the page: {opened}; content policy: {policy}")
    assert opened == 0
    assert policy


# -- the process that draws ------------------------------------------------------------------


def test_a_drawing_that_fails_spoils_no_answer(lay: LaySite, rows: Rows, figure: Figure) -> None:
    def fail(_: object) -> None:
        raise BrokenProcessPool("a child process terminated abruptly")

    server = HostileServer(lay(rows, cap=20.0))
    with wire.reports_held_back(fail):
        found = [
            server.ask(DRIFT, instruction_for(DRIFT, run=f"r{run}")).word or "answered" for run in (1, 2)
        ]
    figure(f"drift checks after the drawing process died: {found}, spent {wire.spent(server.site):.2g}")
    assert found == ["answered", "answered"]


def test_no_process_outlives_a_killed_site(lay: LaySite, rows: Rows, figure: Figure, tmp_path: Path) -> None:
    site = lay(rows, cap=20.0)
    experiment, instruction = tmp_path / "experiment.json", tmp_path / "instruction.json"
    experiment.write_text(json.dumps(wire.base_experiment()))
    instruction.write_text(json.dumps(instruction_for(DRIFT)))
    program = [sys.executable, "-m", "tests.adversary.hostile_server"]
    with subprocess.Popen(
        [*program, str(site), DRIFT, str(experiment), str(instruction)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        assert b'"word": ""' in process.stdout.readline()
        children = _children(process.pid)
        os.kill(process.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=120)
    figure(f"of {len(children)} processes of a killed site {len(alive)} live 30 s later")
    for one in alive:
        one.kill()
    assert children
    assert not alive


def _children(pid: int) -> list[psutil.Process]:
    """All that it started, once there are any that import something."""
    end = time.monotonic() + 600
    while time.monotonic() < end:
        found = psutil.Process(pid).children(recursive=True)
        if any(one.cpu_times().user > 0.5 for one in found):
            return found
        time.sleep(0.1)
    return psutil.Process(pid).children(recursive=True)
