"""The README's story: its people type its commands, each on the host that they are for.

The files are made up: visits of the sites' patients. Rows are dated: three weeks of a January to train on,
and the last weeks before today, which a schedule finds closed. In all of these but the first the patients
are others than before.
"""

from __future__ import annotations

import datetime
import json
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from contract.experiment_file import parse_experiment
from contract.windows import first_day, window_of
from tests.e2e.hosts.network import NAME, Host
from tests.readme import Guide

__all__ = [
    "EXPERIMENT",
    "WEEKS",
    "Story",
    "approve",
    "connect",
    "enrol",
    "make_sites",
    "start_server",
    "train",
]

TRAINED = ("2026-W01", "2026-W02", "2026-W03")
_TODAY = datetime.datetime.now(datetime.UTC).date()
WEEKS = tuple(window_of(_TODAY - datetime.timedelta(weeks=ago), "week") for ago in range(5, -1, -1))
"""The last one is not over yet, and the one before may be within the lag."""
_ROWS = 200

EXPERIMENT = """\
name = "visits"
[task]
time = "admitted"
label = { column = "ill" }
[[task.features]]
name = "age"
kind = "numeric"
low = 0
high = 120
[[task.features]]
name = "ward"
kind = "categorical"
categories = ["a", "b"]
[model]
kind = "linear"
[strategy]
name = "fedavg"
rounds = 2
learning_rate = 0.5
quorum = 3
grace = 30.0
round_timeout = 600.0
[privacy]
epsilon = 2.0
[drift]
epsilon = 0.5
false_alarm_rate = 0.0001
[retraining]
persistence = 1
of = 1
[gate]
min_improvement = 1000.0
"""
"""Drift leads to a challenger at once, and no challenger passes the gate: a reviewer decides."""

_CARD = """\
[card]
time = { column = "admitted", kind = "date", every = "week", lag = 2 }
holdout = { share = 0.3, record = "visit" }
[[card.columns]]
name = "age"
kind = "numeric"
low = 0
high = 120
[[card.columns]]
name = "ward"
kind = "categorical"
categories = ["a", "b"]
[[card.columns]]
name = "ill"
kind = "categorical"
categories = ["0", "1"]
"""

_FINISH = """
import pathlib, re, sys
file = pathlib.Path(sys.argv[1])
before, draft = re.split(r"(?m)^(?=\\[card\\])", file.read_text(encoding="utf-8"))
assert "draft = true" in draft and "REPLACE" in draft
before = before.replace("[storage]\\n", pathlib.Path("storage.toml").read_text())
file.write_text(before + pathlib.Path("finished.toml").read_text())
"""
"""What the site's administrator does in an editor."""


@dataclass
class Story:
    """The hosts, what runs on them, and what is left of each of the README's sections.

    Args:
        hosts: by name: `server`, `scientist`, and each site.
        sites: their names; that of the README is the first.
        known_as: the server's name.
    """

    hosts: Mapping[str, Host]
    sites: tuple[str, ...]
    known_as: str = NAME
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    operator: Guide = field(default_factory=lambda: Guide("An operator starts"))
    administrator: Guide = field(default_factory=lambda: Guide("A site starts"))
    scientist: Guide = field(default_factory=lambda: Guide("A scientist starts"))
    reviewer: Guide = field(default_factory=lambda: Guide("A reviewer starts"))

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    @property
    def left(self) -> list[str]:
        """The commands of the README that nobody has typed yet."""
        guides = (self.operator, self.administrator, self.scientist, self.reviewer)
        return [command for guide in guides for command in guide.left]

    def type(self, host: str, line: str, editor: str = "", person: str = "") -> str:
        """A line in a shell on a host, which must succeed; what it printed.

        Args:
            host: where.
            line: a command, or several.
            editor: what `$EDITOR` is.
            person: whose profiles it uses; on the scientist's host otherwise the scientist's.
        """
        line = self._as_person(host, line, person)
        done = self[host].run("bash", "-c", line.replace(NAME, self.known_as), EDITOR=editor)
        assert done.returncode == 0, f"{host}: {line}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, f"{host}: {line}\n{done.stderr}"
        return done.stdout

    @staticmethod
    def _as_person(host: str, line: str, person: str = "") -> str:
        """The line with that person's profiles: those of a scientist would mislead others on one machine."""
        person = person or ("ada" if host == "scientist" else "")
        return f'export XDG_CONFIG_HOME="$PWD/{person}"; {line}' if person else line

    def facts(self, host: str, line: str) -> Any:
        return json.loads(self.type(host, f"{line} --json"))

    def keep(self, host: str, log: str, line: str) -> None:
        """A line that lasts; a `&` at its end says so to a reader."""
        line = line.replace(NAME, self.known_as).removesuffix("&")
        line = self._as_person(host, f"exec {line}")
        self.running[log] = self[host].start(f"{log}.log", "bash", "-c", line)

    def end(self, log: str) -> None:
        """End it as a service's supervisor does."""
        process = self.running.pop(log)
        process.terminate()
        process.wait(300)

    def wait_for(self, log: str) -> str:
        """Its end, which is a good one; what it said."""
        process = self.running.pop(log)
        code = process.wait(600)
        said = self.said(log)
        assert code == 0, said
        return said

    def said(self, log: str) -> str:
        """A log's name begins with its host's."""
        file = self[log.partition("-")[0]].folder / f"{log}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def until(self, what: str, holds: Callable[[], object], pause: float = 0.5) -> None:
        end = time.monotonic() + 600
        while not holds():
            tails = "\n".join(f"--- {log}\n{self.said(log)[-1500:]}" for log in self.running)
            for log, process in self.running.items():
                assert process.poll() in (None, 0), f"{log} ended while {what} was waited for\n{tails}"
            assert time.monotonic() < end, f"not within 10 min: {what}\n{tails}"
            time.sleep(pause)

    def start_agents(self, *sites: str, line: str = "tidegate site up north/site.toml") -> None:
        """Start them, and wait until they are connected."""
        begun = {site: self.said(f"{site}-up").count(_CONNECTED) for site in sites}
        for site in sites:
            self.keep(site, f"{site}-up", line.replace("north", site))
        for site in sites:
            self.until(
                f"{site} is connected",
                lambda site=site: self.said(f"{site}-up").count(_CONNECTED) > begun[site],
            )

    def connected(self, line: str = "tidegate server sites") -> set[str]:
        return {site["name"] for site in self.facts("server", line) if site["connected"]}

    def asked(self, site: str) -> str:
        """The digest of the one experiment that waits for the approval of a site's administrator."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found[:] = self.facts(site, f"tidegate site requests {site}/site.toml")["requests"]
            return bool(found)

        self.until(f"{site} is asked", look)
        (request,) = found
        return str(request["digest"])

    def checks(self) -> dict[str, dict[str, Any]]:
        """The scheduled windows, each with how it stands."""
        (schedule,) = self.facts("server", "tidegate schedule list")
        return {check["window"]: check for check in schedule["windows"]}


_STANDS, _CONNECTED, _WAITS = "Ctrl-C stops all", " is connected to ", "waits for approval"


def start_server(story: Story, line: str = "tidegate server up") -> None:
    """Start it, and wait until it is up."""
    begun = story.said("server-up").count(_STANDS)
    story.keep("server", "server-up", line)
    story.until("the server is up", lambda: story.said("server-up").count(_STANDS) > begun)


def make_sites(story: Story, rules: Mapping[str, str]) -> None:
    """What the administrator of north types, the others type too, with their own site's name.

    Args:
        story: whose sites.
        rules: by site: what runs there without asking.
    """
    begins = ("tidegate site init", "cp", "tidegate site card", "$EDITOR")
    lines = "\n".join(("set -e", *(story.administrator.take(beginning) for beginning in begins)))
    for seed, site in enumerate(story.sites):
        folder = story[site].folder
        _lay_rows(story[site], seed)
        (folder / "finished.toml").write_text(f"[policy.allow]\n{rules[site]}\n{_CARD}")
        # Evidently's report is slow to load: at one site it is enough
        (folder / "storage.toml").write_text("[storage]\n" + "drift_reports = false\n" * bool(seed))
        (folder / "finish.py").write_text(_FINISH)
        story.type(site, lines.replace("north", site), editor="python finish.py")


def _lay_rows(host: Host, seed: int) -> None:
    """A site's visits.csv."""
    random = np.random.default_rng(seed)
    lines = ["admitted,visit,age,ward,ill"]
    for week in (*TRAINED, *WEEKS):
        others = week in WEEKS[1:]
        age = random.integers(90, 120, _ROWS) if others else random.integers(0, 120, _ROWS)
        ill = random.random(_ROWS) < (1 - age / 120 if others else age / 120)
        days = first_day(week, "week").toordinal() + random.integers(0, 7, _ROWS)
        lines += [
            f"{datetime.date.fromordinal(int(days[row]))},{week}-{row},{age[row]},"
            f"{'b' if others else 'ab'[row % 2]},{int(ill[row])}"
            for row in range(_ROWS)
        ]
    (host.folder / "visits.csv").write_text("\n".join(lines) + "\n")


def enrol(story: Story) -> None:
    """As operator and administrators do it, over the telephone; each site's agent is then connected."""
    invite, confirm = (
        story.operator.take("tidegate server invite"),
        story.operator.take("tidegate server confirm"),
    )
    join, up = (story.administrator.take(f"tidegate site {word}") for word in ("join", "up"))
    for site in story.sites:
        story.type("server", invite.replace("north", site))
        token = f"{site}.token"
        (story[site].folder / token).write_text((story["server"].folder / token).read_text())
        story.keep(site, f"{site}-join", join.replace("north", site))
    read_out = {site: _read_out(story, site) for site in story.sites}
    shown = story.type("server", story.operator.take("tidegate server requests"))
    assert all(fingerprint in "".join(shown.split()) for fingerprint in read_out.values()), shown
    waiting = story.facts("server", "tidegate server requests")
    assert {one["name"]: one["fingerprint"] for one in waiting} == read_out
    for site, fingerprint in read_out.items():
        story.type("server", confirm.replace("north", site).replace("FINGERPRINT", fingerprint))
    for site in story.sites:
        story.wait_for(f"{site}-join")
    story.start_agents(*story.sites, line=up)
    listed = story.type("server", "tidegate server sites")
    assert all(site in listed for site in story.sites)
    assert story.connected() == set(story.sites)


def _read_out(story: Story, site: str) -> str:
    """The fingerprint that `site join` shows."""
    found: list[str] = []

    def asked() -> bool:
        found[:] = re.findall(r"SHA256:\S+", story.said(f"{site}-join"))
        return bool(found)

    story.until(f"{site} has asked", asked)
    return found[0]


def train(story: Story, experiment: str) -> str:
    """A scientist connects and runs it; north's administrator is asked. The run's name."""
    connect(story, "ada", "scientist", story.scientist)
    story.type("scientist", story.scientist.take("tidegate new"))
    file = story["scientist"].folder / "visits.toml"
    drafted = parse_experiment(file.read_text(), where="the draft").task
    assert drafted.features == parse_experiment(experiment, where="the story").task.features
    file.write_text(experiment)
    story.keep("scientist", "scientist-run", story.scientist.take("tidegate run "))
    story.until("north is asked", lambda: _WAITS in story.said("north-up"))
    digest = story.asked("north")
    assert digest in story.type("north", story.administrator.take("tidegate site requests"))
    (run,) = story.facts("scientist", story.scientist.take("tidegate runs list"))["runs"]
    name = str(run["name"])
    assert "ada" in story.type("scientist", story.scientist.take("tidegate runs show", NAME=name))
    story.until("ada is told", lambda: "waiting for approval at north" in story.said("scientist-run"))
    story.type("north", story.administrator.take("tidegate site approve", DIGEST=digest))
    assert "version 1 of 'visits'" in story.wait_for("scientist-run")
    story.type("north", story.administrator.take("tidegate site egress"))
    return name


def connect(story: Story, person: str, role: str, guide: Guide) -> None:
    """The operator makes them known; on the scientist's host they connect."""
    told = story.type("server", story.operator.take(f"tidegate server person add {person}"))
    words = dict(re.findall(r"^(token|fingerprint) +(\S+)", told, re.M))
    story.tokens[person] = words["token"]
    (story["scientist"].folder / f"{person}.token").write_text(words["token"])
    line = guide.take("tidegate connect", AUTHORITY=words["fingerprint"])
    told = story.type("scientist", line, person=person)
    assert f"as '{person}', {role}" in told


def approve(story: Story, version: int) -> None:
    """By the reviewer, who has connected."""
    line = story.reviewer.take("tidegate models approve", VERSION=str(version))
    told = story.type("scientist", line, person="rita")
    assert f"version {version} of 'visits' is the champion (approved by rita)" in told
