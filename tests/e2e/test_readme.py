"""Every command of the README is run, in its order, in a copy of the project.

Those of an operator, a site, a scientist and a reviewer are one story on several machines, which
`tests/e2e/hosts` tells on five. Here all four are on this machine, in one folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.commands import plain_environment
from tests.e2e.hosts.network import Host
from tests.e2e.hosts.story import (
    EXPERIMENT,
    WEEKS,
    Story,
    approve,
    connect,
    enrol,
    make_sites,
    start_server,
    train,
)
from tests.readme import commands_of, headings

ROOT = Path(__file__).resolve().parents[2]
AUDIT = "--runs 50"
STORY = ("An operator starts", "A site starts", "A scientist starts", "A reviewer starts")


class Here(Host):
    """This machine, in a folder."""

    def command(self, arguments: Sequence[str]) -> list[str]:
        return ["env", "-C", str(self.folder), *arguments]

    def variables(self, more: dict[str, str]) -> dict[str, str]:
        return {
            **plain_environment(),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(ROOT),
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            **more,
        }


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Host]:
    host = Here("here", "", tmp_path, tmp_path)
    yield host
    for process in reversed(host.started):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
    for process in host.started:
        process.wait(timeout=300)


@pytest.mark.e2e
@pytest.mark.long
def test_every_command_outside_the_story_works(here: Host) -> None:
    shutil.copytree(
        ROOT / "experiments", here.folder / "experiments", ignore=shutil.ignore_patterns("__pycache__")
    )
    lines = [line for heading in headings() if heading not in STORY for line in commands_of(heading)]
    assert len(lines) > 5
    assert sum(AUDIT in line for line in lines) == 1
    for line in lines:
        done = here.run("bash", "-c", line)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


@pytest.mark.e2e
def test_the_story_of_an_operator_a_site_and_a_scientist(here: Host) -> None:
    """Nobody waits for a week that has not closed, and version 1 waits for a reviewer."""
    story = Story(dict.fromkeys(("server", "north", "scientist"), here), ("north",), "localhost")
    story.type("server", story.operator.take("tidegate server init"))
    start_server(story, story.operator.take("tidegate server up"))
    make_sites(story, {"north": 'label = "ill"\nepsilon = 1.0'})
    enrol(story)
    assert "FAULT" not in story.type("north", story.administrator.take("tidegate site doctor"))
    train(story, EXPERIMENT.replace("quorum = 3", "quorum = 1"))
    story.type("server", story.operator.take("tidegate schedule add", WEEK=WEEKS[-1]))
    assert WEEKS[-1] in story.type("server", story.operator.take("tidegate schedule list"))
    connect(story, "rita", "reviewer", story.reviewer)
    approve(story, 1)
    story.type("server", story.operator.take("tidegate server revoke"))
    assert story.running.pop("north-up").wait(600) != 0
    assert not story.left


def test_the_story_is_ten_commands_or_fewer_for_each() -> None:
    for heading in STORY:
        assert 1 <= len(commands_of(heading)) <= 10, heading


def test_a_command_that_the_readme_lacks_cannot_be_taken_nor_one_twice() -> None:
    story = Story({}, ())
    story.operator.take("tidegate server init")
    for beginning in ("tidegate server init", "tidegate server conjure"):
        with pytest.raises(ValueError, match="not enough values"):
            story.operator.take(beginning)
    with pytest.raises(AssertionError, match="has no WORD"):
        story.operator.take("tidegate server revoke", WORD="x")
    assert len(story.left) > 20
