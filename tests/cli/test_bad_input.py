"""What a person sees who gives something wrong: one sentence with place and remedy, exit code 2."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from clients.keys import make_node_key
from contract.experiment_file import parse_experiment
from server.line.certificates import make_server_files
from server.state.storage import open_state
from tests.cards import card_for
from tests.commands import tidegate
from tests.mlflow_database import lay_mlflow_database

pytestmark = pytest.mark.e2e

EXPERIMENT = """\
name = "small"
[task]
time = "window"
out_of_range = "leave-out"
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
[strategy]
rounds = 2
quorum = 1
[privacy]
epsilon = 1.0
delta = 1e-4
"""

CARD = card_for(parse_experiment(EXPERIMENT, where="small"), holdout="side")
SITE = f"""\
name = "north"
stated_rows = 50
[data]
kind = "csv"
path = "rows.csv"
{CARD}
"""

HEADER = "age,ward,ill,window,side"
ROWS = [
    f"{20 + number},{'ab'[number % 2]},{number % 3 % 2},w1,{'train' if number % 4 else 'holdout'}"
    for number in range(40)
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "experiment.toml").write_text(EXPERIMENT)
    (tmp_path / "site.toml").write_text(SITE)
    write_rows(tmp_path, ROWS)
    return tmp_path


def write_rows(place: Path, rows: list[str], header: str = HEADER) -> None:
    (place / "rows.csv").write_text("\n".join([header, *rows]) + "\n")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def run(place: Path) -> subprocess.CompletedProcess[str]:
    return tidegate(place, "run", "experiment.toml", "--yes", "--site", "site.toml", "--json")


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2, and one line `error: …` that holds all the words."""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2, done.stderr
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in errors[0]


def test_the_version_is_said() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "experiments.cli.main", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.fullmatch(r"tidegate \d+\.\d+\S*\n", said.stdout)
    assert not said.stderr


def test_a_toml_syntax_error(place: Path) -> None:
    edit(place / "experiment.toml", "rounds = 2", "rounds = = 2")
    refused(run(place), "experiment.toml", "line 16")


def test_an_unknown_key_names_the_nearest(place: Path) -> None:
    edit(place / "experiment.toml", "rounds = 2", "ronds = 2")
    refused(run(place), "'strategy.ronds'", "did you mean 'rounds'?")


@pytest.mark.parametrize(("old", "new"), [("epsilon = 1.0", "epsilon = 0"), ("delta = 1e-4", "delta = 1.5")])
def test_privacy_parameters_that_mean_nothing(place: Path, old: str, new: str) -> None:
    edit(place / "experiment.toml", old, new)
    refused(run(place), f"privacy.{old.partition(' ')[0]}")


def test_a_missing_experiment_file(place: Path) -> None:
    refused(tidegate(place, "run", "nothing.toml"), "nothing.toml", "No such file")


def test_a_missing_data_set(place: Path) -> None:
    edit(place / "experiment.toml", 'name = "small"', 'name = "small"\ndata = "no-such-set"')
    refused(tidegate(place, "run", "experiment.toml"), "no-such-set", "rand-health")


def test_a_missing_site_file(place: Path) -> None:
    (place / "site.toml").unlink()
    refused(run(place), "site.toml", "no such file")


def test_a_feature_missing_from_the_rows(place: Path) -> None:
    write_rows(place, ROWS, HEADER.replace("age", "agee"))
    refused(run(place), "age", "rows.csv")


def test_a_value_outside_its_public_range(place: Path) -> None:
    write_rows(place, [*ROWS, "130,a,1,w1,train"])
    left_out(run(place))


def test_a_category_never_declared(place: Path) -> None:
    write_rows(place, [*ROWS, "30,z,1,w1,train"])
    left_out(run(place))


def left_out(done: subprocess.CompletedProcess[str]) -> None:
    """The run goes on without the row, and the person at the rows is told."""
    assert done.returncode == 0, done.stderr
    (told,) = [line for line in done.stderr.splitlines() if "administrator" in line]
    assert told.startswith("north, for its administrator alone: 30 of 31 training rows fit: ")


def test_an_empty_file(place: Path) -> None:
    (place / "rows.csv").write_text("")
    refused(run(place), "rows.csv", "header")


def test_a_file_without_rows(place: Path) -> None:
    write_rows(place, [])
    refused(run(place), "site 'north'", "none of 0 training rows")


def test_rows_of_which_none_fits(place: Path) -> None:
    write_rows(place, ["130,z,1,w1,train", "131,a,,w1,train"])
    refused(run(place), "none of 2 training rows", "a value outside its range in 'age'", "no label in 'ill'")


def test_a_window_that_no_row_names(place: Path) -> None:
    done = tidegate(place, "run", "experiment.toml", "--yes", "--site", "site.toml", "--window", "w9")
    refused(done, "site 'north'", "window w9")


def test_a_column_that_the_card_does_not_offer(place: Path) -> None:
    edit(place / "experiment.toml", 'name = "age"', 'name = "income"')
    refused(run(place), "the card offers no column 'income'")


def test_a_site_without_a_card(place: Path) -> None:
    edit(place / "site.toml", CARD, "")
    refused(run(place), "no card", "tidegate site card")


def test_fewer_sites_than_the_quorum(place: Path) -> None:
    """No other site can join a run of this machine: nobody waits, and nothing is charged."""
    edit(place / "experiment.toml", "quorum = 1", "quorum = 2")
    remedy = "Name more with --site, or lower strategy.quorum"
    refused(run(place), "1 site is named, and strategy.quorum is 2", remedy)
    edit(place / "experiment.toml", "low = 0\nhigh = 120\n", "")
    refused(
        tidegate(place, "ranges", "experiment.toml", "--site", "site.toml"), "1 site is named, and", remedy
    )
    assert not (place / "tidegate").exists()


def test_a_site_named_twice(place: Path) -> None:
    edit(place / "experiment.toml", "quorum = 1", "quorum = 2")
    (place / "copy.toml").write_text(SITE)
    (place / "there").mkdir()
    same = ("--site", "site.toml", "--site", "there/../site.toml")
    refused(
        tidegate(place, "run", "experiment.toml", "--yes", *same), "named twice", "there/../site.toml", "once"
    )
    named_alike = ("--site", "site.toml", "--site", "copy.toml")
    refused(
        tidegate(place, "run", "experiment.toml", "--yes", *named_alike),
        "copy.toml",
        "'north'",
        "of site.toml",
    )
    edit(place / "experiment.toml", "low = 0\nhigh = 120\n", "")
    refused(tidegate(place, "ranges", "experiment.toml", *same), "named twice")
    refused(tidegate(place, "ranges", "experiment.toml", *named_alike), "'north'")
    assert not (place / "tidegate").exists()


def test_a_run_whose_metrics_the_noise_hides_says_why(place: Path) -> None:
    edit(place / "experiment.toml", "delta = 1e-4", "delta = 1e-4\nevaluation_epsilon = 0.02")
    done = tidegate(place, "run", "experiment.toml", "--yes", "--site", "site.toml")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("too noisy") >= 4
    assert "No metric can be told: the noise hides it. More held-out rows, or a larger" in done.stdout


def test_a_cap_that_is_too_small(place: Path) -> None:
    (place / "site.toml").write_text(SITE + "[policy]\nepsilon_cap = 0.5\n")
    refused(run(place), "site 'north'", "cap of 0.5")


def test_a_cap_already_spent(place: Path) -> None:
    (place / "site.toml").write_text(SITE + "[policy]\nepsilon_cap = 1.2\n")
    first = run(place)
    assert first.returncode == 0, first.stderr
    refused(run(place), "site 'north'", "cap of 1.2")


def test_a_delta_that_the_stated_rows_do_not_allow(place: Path) -> None:
    (place / "site.toml").write_text(SITE + "[policy]\ndelta_cap = 0.05\n")
    refused(run(place), "delta_cap", "1/50")


def test_a_server_that_cannot_be_reached(place: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    make_node_key(place / "keys")
    authority = make_server_files(place / "server", ("127.0.0.1",)).authority
    arguments = ("--superlink", f"127.0.0.1:{port}", "--root-certificates", str(authority), "--wait", "0.1")
    refused(tidegate(place, "site", "up", "site.toml", *arguments), f"127.0.0.1:{port}", "cannot be reached")


def test_what_is_wrong_here_is_told_before_the_server_is_waited_for(place: Path) -> None:
    arguments = ("site", "up", "site.toml", "--superlink", "127.0.0.1:9", "--wait", "60")
    refused(tidegate(place, *arguments, "--root-certificates", "ca.pem"), "ca.pem", "No such file")
    authority = make_server_files(place / "server", ("127.0.0.1",)).authority
    refused(tidegate(place, *arguments, "--root-certificates", str(authority)), "node.key")


def test_what_is_not_approved_names_the_file_to_change(place: Path) -> None:
    (place / "site.toml").write_text(f'{SITE}[policy]\napproved_experiments = ["{"0" * 64}"]\n')
    refused(run(place), "add the digest to policy.approved_experiments in ", "/site.toml")


def test_a_port_in_use(place: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused(tidegate(place, "server", "up", "--port", "0", "--ui-port", port), port, "in use")
        refused(tidegate(place, "demo", "--folder", "demo", "--ui-port", port), port, "in use")


def test_a_folder_that_no_demo_made(place: Path) -> None:
    (place / "thesis").mkdir()
    refused(tidegate(place, "demo", "--folder", "thesis"), "thesis", "--folder")
    assert (place / "thesis").exists()


def test_a_run_resumed_with_another_experiment(place: Path) -> None:
    first = tidegate(
        place, "run", "experiment.toml", "--yes", "--site", "site.toml", "--json", "--resume", "small-1"
    )
    assert first.returncode == 0, first.stderr
    edit(place / "experiment.toml", "rounds = 2", "rounds = 3")
    again = tidegate(place, "run", "experiment.toml", "--yes", "--site", "site.toml", "--resume", "small-1")
    refused(again, "small-1", "another experiment")


def test_a_full_disk_says_so_and_writes_nothing(place: Path) -> None:
    small = place / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    try:
        (place / "site.toml").write_text(SITE + '[storage]\nfolder = "small"\n')
        (small / "filler").write_bytes(bytes(60 * 1024))
        done = run(place)
        assert done.returncode in (1, 2)
        assert "ledger" in done.stderr or "hold-out key" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        subprocess.run(["umount", str(small)], check=True)
        shutil.rmtree(small)


def test_a_rollback_to_a_version_that_is_not(place: Path) -> None:
    back = ("models", "rollback", "small", "7", "--by", "Ada", "--reason", "trial")
    refused(tidegate(place, *back), "there are no models here", "MLFLOW_TRACKING_URI")
    lay_mlflow_database(place / "mlruns" / "mlflow.db")
    refused(tidegate(place, *back), "there is no server here", "TIDEGATE_HOME")
    (place / ".tidegate").mkdir()
    with open_state(f"sqlite:///{place}/.tidegate/state.db"):
        pass
    done = tidegate(place, *back)
    refused(done, "version 7", "tidegate models list")
