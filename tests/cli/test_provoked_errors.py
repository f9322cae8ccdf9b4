"""Errors that people meet on their way, each provoked by its command: one line that says where it is,
what happened and what to do, and the exit code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from clients.keys import fingerprint, make_node_key, read_private_key
from clients.line.agent import one_agent
from contract.errors import SiteConfigError
from contract.mandate import public_key_of
from server.line.certificates import make_server_files
from server.state.enrolments import Enrolments
from server.state.records import Enrolment
from tests.clients.test_app import EXPERIMENT, ask, forget_sites, site
from tests.clients.test_consent import TRAIN, word
from tests.scientist.conftest import Standing, standing, tidegate
from tests.scientist.test_commands import keyed, plan_file

__all__ = ["forget_sites", "site", "standing", "tidegate"]

Command = Callable[..., str]
Case = tuple[Sequence[object], int, str, str, str]
"""Arguments, exit code, and parts of what is said: where, what, and what to do."""
DIGEST = "5" * 64


def provoke(tidegate: Command, cases: Sequence[Case]) -> None:
    """Each must say its three parts, in this order, on one line that ends as a sentence does."""
    wrong = []
    for arguments, code, *parts in cases:
        told = tidegate(*arguments, code=code)
        line = next((one for one in told.splitlines() if one.startswith("error: ")), "")
        places = [line.find(part) for part in parts]
        if -1 in places or places != sorted(places) or not line.endswith(".") or "Traceback" in told:
            wrong.append((arguments, parts, told))
    assert not wrong, "\n".join(map(str, wrong))


def test_a_site_s_administrator(
    site: Path, tidegate: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other, known = tmp_path / "other", EXPERIMENT.digest
    tidegate("site", "init", other, "--name", "other")
    authorities = [make_server_files(tmp_path / name, ["127.0.0.1"]).authority for name in ("one", "two")]
    both, pinned = tmp_path / "both.pem", tmp_path / "pinned.toml"
    both.write_bytes(b"".join(one.read_bytes() for one in authorities))
    key = public_key_of(Ed25519PrivateKey.generate())
    pinned.write_text(f'{site.read_text()}scientists = {{ ada = "{key}" }}\n')
    make_node_key(tmp_path / "keys")
    (tmp_path / "strange.toml").write_bytes(b"name = \xff")
    (tmp_path / "card.json").write_text("{}")
    (tmp_path / "none.db").write_bytes(b"no ledger")
    tidegate("site", "ledger", site)  # makes one
    tidegate("site", "backup", site, "site.db")
    site.write_text(f'{site.read_text()}approval = "ask"\n')
    assert (word(ask(site, "train", instruction=TRAIN)), known) == ("approval", EXPERIMENT.digest)
    tidegate("site", "requests", site)
    up = ("site", "up", pinned, "--superlink", "127.0.0.1:1")
    provoke(
        tidegate,
        [
            (("site", "init", other, "--name", "other"), 2, "site.toml", "is a site already", "Edit it"),
            (("site", "init", "x", "--name", "../x"), 2, "--name", "a site cannot be named", "Use letters"),
            (("site", "init", "x", "--name", "x", "--rows", 0), 2, "--rows", "can be stated", "at least 1"),
            (("site", "status", "strange.toml"), 2, "strange.toml", "not UTF-8 text", "save it"),
            (("site", "card", "card.json"), 2, "card.json", "checked with a key", "--public-key"),
            (("site", "card", site, "--write"), 2, "site.toml", "has a card already", "remove [card]"),
            (("site", "approve", site, "12"), 2, "DIGEST", "'12' is no digest", "Give all 64 digits"),
            (("site", "approve", site, DIGEST), 2, "", f"no request of experiment {DIGEST[:8]}", "tidegate"),
            (("site", "approve", site, known, "--until", "2020-01-01"), 2, "--until", "is over", "to come"),
            (("site", "approve", site, known, "--until", "soon"), 2, "--until", "is no day", "2027-03-31"),
            (("site", "revoke", site, DIGEST), 2, "", "no approval of experiment", "requests"),
            (("site", "refuse", site, DIGEST, "--undo"), 2, "ledger.db", "is not refused", "requests"),
            (up, 2, "site up", "go together", "Give both"),
            ((*up, "--root-certificates", both), 2, "both.pem", "several certificates", "this server alone"),
            (("site", "restore", other / "site.toml", "site.db"), 1, "site.db", "is of site", "of 'other'"),
            (("site", "restore", other / "site.toml", "none.db"), 1, "none.db", "not a ledger", "another"),
            (("site", "restore", other / "site.toml", "no.db"), 2, "no.db", "no such file", "Name a backup"),
            (("site", "backup", other / "site.toml", "x.db"), 2, "ledger.db", "no ledger yet", "first"),
        ],
    )  # fmt: skip
    lock = tmp_path / "agent.lock"
    said = r"agent\.lock: an agent .* runs already\. Stop it"
    with one_agent(lock), pytest.raises(SiteConfigError, match=said), one_agent(lock):
        pass


def test_an_operator_without_a_server(
    tidegate: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIDEGATE_PROFILE", "-")
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "home"))
    provoke(
        tidegate,
        [
            (
                ("server", "invite", "north"),
                2,
                "home",
                "for its own machine alone",
                "`tidegate server init HOST`",
            )
        ],
    )
    tidegate("server", "init", "127.0.0.1", "--gateway-port", 1, "--api-port", 2)
    for variable, value, where, what, remedy in (
        ("TIDEGATE_LARGEST_REPLY", "much", "TIDEGATE_LARGEST_REPLY", "'much' is no number of MB", "256"),
        ("TIDEGATE_STATE_URL", "postgresql://a:b@c@d/e", "TIDEGATE_STATE_URL", "more than one '@'", "%40"),
        ("TIDEGATE_STATE_URL", "nosuch://a/b", "nosuch", "no driver for 'nosuch'", "Use sqlite"),
        ("TIDEGATE_STATE_URL", "not a url", "TIDEGATE_STATE_URL", "cannot be read", "Write sqlite:"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            code = 2 if "MB" in what else 1
            provoke(tidegate, [(("server", "person", "list"), code, where, what, remedy)])
    (tmp_path / "home" / "superlink.secret").write_text("x")
    (tmp_path / "home" / "superlink.secret").chmod(0o600)
    provoke(
        tidegate,
        [
            (("server", "init", "127.0.0.1"), 2, "server.toml", "there is a server already", "Edit it"),
            (("models", "ui"), 2, "server.toml", "asks nobody who they are", "Sign in at"),
            (("server", "up", "--port", 0), 2, "superlink.secret", "holds no secret", "Remove it"),
            (("server", "person", "revoke", "ben"), 2, "NAME", "nobody named 'ben'", "Nobody has one"),
        ],
    )
    (tmp_path / "home" / "certificates" / "ca.pem").write_text("x")
    provoke(
        tidegate,
        [(("server", "invite", "north"), 2, "ca.pem", "authority cannot be read", "from the backup")],
    )


def test_an_operator_and_a_scientist(standing: Standing, tidegate: Command, tmp_path: Path) -> None:
    file = plan_file(standing, tmp_path)
    add = ("schedule", "add", file)
    standing.here()
    enrolments = Enrolments(standing.served.state.database, standing.federation)
    private, public = make_node_key(tmp_path / "keys")
    shown = fingerprint(read_private_key(private).public_key())
    for name in ("east", "west"):
        now = datetime.now(UTC)
        enrolments.invite(name, secret=name[0] * 64, now=now, expires=now.replace(year=2999))
        asked = Enrolment(
            federation=standing.federation, name=name, fingerprint=shown,
            public_key=public.read_text(), signing_request="r", card=None, stated_rows=50, asked=now,
        )  # fmt: skip
        assert enrolments.join(asked, secret=name[0] * 64, now=now)
    assert enrolments.refuse(enrolments.get("east"), now=now)  # type: ignore[arg-type]
    tidegate("server", "person", "add", "ben", "--role", "reviewer")
    provoke(
        tidegate,
        [
            (("server", "confirm", "x", "SHA256:x"), 2, "home", "no server was started", "Start one"),
            (("server", "person", "add", "ben", "--role", "operator"), 2, "NAME", "ben", "revoke"),
            (
                ("models", "approve", "fake", 9, "--reason", "r", "--by", "p"), 2,
                "", "there is no version 9", "models list",
            ),
            ((*add, "--cron", "* *"), 2, "--cron", "has 2 fields", "Give five fields"),
            ((*add, "--cron", "0 2 1 * mon"), 2, "--cron", "names days and weekdays", "Leave one"),
            ((*add, "--cron", "99 2 * * *"), 2, "--cron", "cannot be read", "Give five fields"),
            ((*add, "--lag", "400d"), 2, "--lag", "a lag of 400 days", "0 to 366"),
            ((*add, "--rehearse", "0.01"), 2, "--rehearse", "a pace of 0.01 s", "0.1 to 86400"),
            ((*add, "--rehearse", 5, "--cron", "0 2 * * *"), 2, "--rehearse", "does not wait", "Leave one"),
            ((*add, "--zone", "No/Where"), 2, "--zone", "no time zone 'No/Where'", "Europe/Berlin"),
            ((*add, "--every", "day", "--first", "1900-01-01"), 2, "--first", "windows ago", "later"),
            (("schedule", "sign", file), 2, "schedule sign", "at the server of a profile", "Connect"),
        ],
    )  # fmt: skip
    url, authority = standing.served.url, standing.served.files.authority
    standing.patch.setenv("XDG_CONFIG_HOME", str(standing.config / "nobody"))
    standing.patch.setenv("TIDEGATE_PROFILE", "never")
    provoke(tidegate, [(("runs", "list"), 2, "TIDEGATE_PROFILE", "no profile 'never'", "tidegate connect")])
    standing.patch.delenv("TIDEGATE_PROFILE")
    (tmp_path / "short").write_text("x")
    (tmp_path / "empty.pem").write_text("x")
    trusted = ("connect", url, "--authority", authority)
    provoke(
        tidegate,
        [
            (("runs", "list"), 2, "", "you are not connected to a server", "`tidegate compare RUN`"),
            (("connect", "http://host"), 2, "URL", "is no address of a server", "https://"),
            (("connect", url), 2, url, "authority is not known here", "--fingerprint"),
            (("connect", url, "--fingerprint", "12"), 2, "--fingerprint", "no SHA-256", "64"),
            (
                ("connect", url, "--fingerprint", "0" * 64),
                2,
                "--fingerprint",
                "another fingerprint",
                "Nothing",
            ),
            (("connect", url, "--authority", "empty.pem"), 2, "empty.pem", "not a certificate", "Ask"),
            (trusted, 2, "--token-file", "no token is given", "TIDEGATE_TOKEN"),
            ((*trusted, "--token", "x"), 2, "the token", "this is no token", "server person add"),
            ((*trusted, "--token-file", "short"), 2, "short", "this is no token", "server person add"),
            ((*trusted, "--token-file", "none"), 2, "none", "cannot be read", "Name another"),
            ((*trusted, "--token", "x" * 43), 2, url, "does not take your token", "connect again"),
        ],
    )
    standing.connect("ada", "scientist")
    many = [part for number in range(1001) for part in ("--window", f"w{number}")]
    provoke(
        tidegate,
        [
            (("run", file, "--yes", *many), 2, "'other'", "longer than a server takes", "1,000 windows"),
            (("runs", "watch", "first"), 1, "run 'first'", "the run is failed", "runs show first"),
            (("schedule", "sign", file), 2, "NAME", "has no schedule", "There are: fake"),
        ],
    )  # fmt: skip
    keyed(standing, "olga", "operator")
    provoke(
        tidegate,
        [
            (
                (*add, "--first", "2999-W01", "--sign-days", 1),
                2,
                "--sign-days",
                "would end",
                "more --sign-days",
            )
        ],
    )


def test_whoever_writes_an_experiment(
    site: Path, tidegate: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIDEGATE_PROFILE", "-")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nobody"))
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "home"))
    tidegate("new", "a.toml", "--site", site, "--label", "ill")
    text, twin = (tmp_path / "a.toml").read_text(), tmp_path / "twin" / "site.toml"
    twin.parent.mkdir()
    twin.write_text(site.read_text())
    (tmp_path / "broken.toml").write_text("[task\n")
    open_one = tmp_path / "open.toml"
    open_one.write_text(f"{text}\n[privacy]\nprivate = false\n" if "[privacy]" not in text else text)
    new, run = ("new", "b.toml"), ("run", "a.toml")
    provoke(
        tidegate,
        [
            ((*new, "--set", "a=1"), 2, "the options", "--set goes with --from", "Edit the file"),
            ((*new, "--from", "a.toml", "--site", site), 2, "the options", "takes everything", "Leave"),
            ((*new, "--from", "a.toml", "--set", "x"), 2, "--set", "'x' is no KEY=VALUE", "strategy.rounds"),
            ((*new, "--from", "broken.toml"), 2, "broken.toml", "not valid TOML", "Name an"),
            (new, 2, "the options", "no site is named", "--site"),
            ((*run, "--runtime", "magic"), 2, "--runtime", "there is no runtime 'magic'", "Use inline"),
            ((*run, "--runtime", "inline"), 2, "a:", "no sites are named", "--site"),
            ((*run, "--site", site, "--site", site), 2, "site.toml", "named twice", "each --site once"),
            ((*run, "--site", site, "--site", twin), 2, "twin", "the site's name is", "a name of its own"),
            (("run", "none.toml"), 2, "none.toml", "cannot be read", "Name an"),
            ((*run, "--site", site, "--window", "2026-W09..2026-W01"), 2, "--window", "no span", "earlier"),
            (("plan", "a.toml"), 2, "state.db", "no server here", "connect"),
            (("bench", "nosuch"), 2, "NAME", "there is no benchmark 'nosuch'", "Name one of"),
        ],
    )  # fmt: skip
