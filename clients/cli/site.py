"""`tidegate site …`: for the administrator of a site."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clients.cli.backup import backup, restore
from clients.cli.card import card, card_in_words
from clients.cli.check import check
from clients.cli.consent import approve, refuse, requests, revoke
from clients.cli.cost import cost
from clients.cli.doctor import doctor
from clients.cli.join import join, way_for
from clients.cli.ledger import Json, Key, SiteFile, ledger
from clients.cli.ledger import check as evidence
from clients.cli.personal import personal, predict
from clients.cli.serve import serve, serve_key

if TYPE_CHECKING:
    import threading

    from rich.table import Table
    from rich.text import Text

    from clients.cli.join import Way
    from clients.policy import Policy
    from clients.site_config import SiteConfig
    from terminal.health import Health

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="For a site: what runs here, what it spent, what left.")


_PAUSE = 5.0
"""Seconds before a server that has forgotten the site is asked again."""

_TEMPLATE = """\
# A Tidegate site. Of this file `name`, `stated_rows` and [card] are public, and nothing else.
name = "{name}"
# The rough number of training rows, which you state; nobody counts them.
stated_rows = {rows}

[data]
kind = "csv"                    # or "parquet" or "sql"
path = "rows"                   # a file, a folder of files, or a pattern
# separator = ";"
# decimal = ","
# encoding = "windows-1252"     where the file is not UTF-8
# na_values = ["", "NA", "NaN"]  what stands for a missing value in every column

[policy]
epsilon_cap = 8.0               # the most that any data block may ever spend
delta_cap = {delta}
require_private = true
approval = "ask"                # nothing runs that you have not approved: see `tidegate site requests`
# What runs without asking; every key that is given must hold:
# [policy.allow]
# label = "ill"
# features = ["age"]
# epsilon = 1.0                 # the most that one run may cost a data block
# hours = "20:00-06:00"

[storage]
folder = "tidegate"             # ledger, reports and logs

# The card says in public what the rows are: without one the site answers nobody. Draft it from the rows with
# `tidegate site card site.toml --write`, then write what is publicly known in the place of what they said.
#
# [card]
# description = "Visits of adult patients of our hospital"
# person = "patient"            # whose a row is; leave it out if nobody has two rows
# time = {{ column = "month" }}   # a column whose values name windows
# holdout = {{ share = 0.3 }}
#
# [[card.columns]]
# name = "age"
# kind = "numeric"
# meaning = "Years"
# low = 18.0                    # from a form, a code book, a reference: never computed from the rows
# high = 100.0
#
# [[card.columns]]
# name = "ill"
# kind = "categorical"
# meaning = "1 = the diagnosis was made"
# categories = ["0", "1"]
"""


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="The folder to make.")],
    name: Annotated[str, typer.Option(help="The site's public name.")],
    rows: Annotated[int, typer.Option(help="Rough number of training rows, stated.")] = 1000,
) -> None:
    """Make a site.toml and the site's key; of a site whose key was moved away, a new key alone."""
    from clients.keys import make_node_key
    from contract.errors import InputError
    from terminal.output import say

    path, text = folder / "site.toml", _site_toml(name, rows)
    try:
        if path.exists():
            _renew_key(folder, name)
            return
        for part in (folder, folder / "rows", folder / "keys"):
            _make_own_folder(part)
        make_node_key(folder / "keys")
        path.write_text(text, encoding="utf-8")  # last: a site that was begun can be made again
    except OSError as exc:
        raise InputError(
            f"no site can be made there: {exc.strerror}",
            where=str(exc.filename or folder),
            remedy="Name a folder that this user may write to, on a disk with room",
        ) from exc
    say(f"made {path}")
    say(f"put the rows into {folder / 'rows'}")
    say(f"next: `tidegate site card {path} --write` drafts what the site says of its rows")
    say(
        f"then: `tidegate site join TOKEN --site {path}`, with the token that the federation's operator gives"
    )


def _renew_key(folder: Path, name: str) -> None:
    """For a site that was revoked: whose settings, rows and ledger stay, and whose key does not.

    Raises:
        InputError: the site has a key, or another name.
    """
    from clients.keys import make_node_key
    from clients.site_config import read_site_config
    from contract.errors import InputError
    from terminal.output import say

    path, keys = folder / "site.toml", folder / "keys"
    if (keys / "node.key").exists() or read_site_config(path).name != name:
        raise InputError("there is a site already", where=str(path), remedy="Edit it, or name another folder")
    _make_own_folder(keys)
    private, _ = make_node_key(keys)
    say(f"made a new key, {private}; {path} is as it was")
    say(f"next: `tidegate site join TOKEN --site {path}`, with a new token")


def _site_toml(name: str, rows: int) -> str:
    """The file's text; refused here where the site would refuse it later."""
    from pydantic import TypeAdapter, ValidationError

    from contract.errors import InputError
    from contract.names import SiteName

    try:
        TypeAdapter(SiteName).validate_python(name)
    except ValidationError as exc:
        raise InputError(
            f"a site cannot be named {name!r}",
            where="--name",
            remedy="Use letters, digits, blanks and . _ - (at most 100), beginning with a letter or a digit",
        ) from exc
    if not 1 <= rows <= 10**12:
        raise InputError(
            f"{rows} rows are none that can be stated", where="--rows", remedy="State at least 1 row"
        )
    delta = f"1e-{max(4, len(str(rows)))}"  # below 1 / rows, and 1e-4 at most
    return _TEMPLATE.format(name=name, rows=rows, delta=delta)


def _make_own_folder(folder: Path) -> None:
    """This user's alone, whatever the umask; one that is there stays as it is."""
    try:
        folder.mkdir(parents=True, exist_ok=False)
    except FileExistsError:
        return
    folder.chmod(0o700)


@app.command()
def up(
    file: SiteFile,
    superlink: Annotated[
        str | None, typer.Option(help="host:port of a server that the site has not joined.")
    ] = None,
    root_certificates: Annotated[
        Path | None, typer.Option(help="That server's certificate authority (PEM).")
    ] = None,
    key: Key = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the server.")] = 30.0,
    warm: Annotated[
        bool, typer.Option(help="Load the libraries of training at once, not with the first task.")
    ] = False,
    health_port: Annotated[
        int | None, typer.Option(help="Answer GET /health on this port of 127.0.0.1; 0 takes a free one.")
    ] = None,
) -> None:
    """Run the site's agent until it is stopped, for the federation that the site has joined."""
    import logging

    from clients.line.agent import KEPT, one_agent, serve, stopped_by_signals, worker_answers
    from clients.line.flower import FleetConnection, LineBrokenError, connect, wait_for_server
    from clients.line.spool import Spool
    from clients.line.worker import Limits, Worker
    from clients.mandates import AUTHORITY
    from contract.allocator import give_back, reuse_large_blocks
    from terminal.health import Health, serve_health
    from terminal.logs import log_to

    reuse_large_blocks(KEPT)
    key = key or file.parent / "keys" / "node.key"
    way = way_for(file, superlink, root_certificates)
    config = _ready(file, way, key)
    log_to(config.storage.logs / "agent.log")
    log = logging.getLogger("tidegate.agent")
    if config.card is None:
        log.warning("the site has no card yet, and answers nobody until it has: see `tidegate site card`")
    standing: list[FleetConnection] = []
    stop = stopped_by_signals(standing)
    spool, health = Spool(config.storage.spool), Health(config.name)
    limits = Limits(memory_mb=config.agent.memory_mb, seconds=config.agent.task_seconds)
    worker = Worker(lambda descriptor: _worker_command(file, descriptor), limits)

    def rest() -> None:
        worker.stop()
        give_back()

    try:
        with one_agent(config.storage.agent_lock), serve_health(health, health_port) as port:
            if port is not None:
                log.info("health of site '%s': http://127.0.0.1:%d/health", config.name, port)
            if warm:
                worker.start()
            way.renew_beside(key, stop)
            answer = worker_answers(worker, spool, stop, config.agent.stop_seconds)
            wait_for_server(way.superlink, wait, say=log.info)
            while not stop.is_set():
                try:
                    with (
                        way.explained(),
                        connect(
                            way.superlink,
                            root_certificates=way.authority,
                            private_key=key,
                            node_config={"site": str(file.resolve()), AUTHORITY: way.authority_digest},
                            remembered=config.storage.node,
                            certificate=way.certificate,
                        ) as connection,
                    ):
                        log.info(
                            "site '%s' is connected to %s as node %s",
                            config.name,
                            way.superlink,
                            connection.node_id,
                        )
                        standing[:] = [connection]
                        serve(
                            connection,
                            answer,
                            stop,
                            spool=spool,
                            health=health,
                            rest=rest,
                            refuse=lambda request, word: _enter_refusal(file, request, word),
                            reply_seconds=config.agent.reply_seconds,
                        )
                except LineBrokenError as exc:
                    log.warning(
                        "the server at %s went away while it was asked (%s); trying again", way.superlink, exc
                    )
                _wait_to_connect_anew(way.superlink, stop, health)
            health.say("stopped")
    finally:
        worker.stop()
    log.info("site '%s' has stopped", config.name)


def _ready(file: Path, way: Way, key: Path) -> SiteConfig:
    """The settings, once all that can be seen here was seen: before anybody waits for the server.

    Raises:
        TidegateError: something is not there or wrong; or the card is a draft, on which nobody is answered.
            A site that has none yet may connect.
    """
    from clients.site import close_site, open_site
    from contract.errors import InputError

    site = open_site(file)
    if site.config.card is not None:
        _ = site.card
    way.require(site.config.name, key)
    if site.config.policy.scientists is not None and not way.authority_digest:
        raise InputError(
            "it holds several certificates, so for which federation a scientist has signed cannot be told",
            where=str(way.authority),
            remedy="Name a file with the authority of this server alone",
        )
    site.ledger.verify()
    close_site(file)  # the worker opens it
    return site.config


def _enter_refusal(file: Path, request: str, word: str) -> None:
    """What the agent itself refuses is a line of the egress log too."""
    from clients.site import close_site, open_site

    open_site(file).gate.refuse(request, word)
    close_site(file)  # the worker has it open


@app.command(hidden=True)
def work(file: SiteFile, descriptor: int) -> None:
    """The worker process of `tidegate site up`."""
    import signal

    from clients.app import app as client_app
    from clients.app import warm_up
    from clients.line.worker import Limits, answer_tasks
    from clients.site_config import read_site_config
    from terminal.logs import log_to

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # it has nothing to end, and may be deep in a computation
    config = read_site_config(file)
    log_to(config.storage.logs / "agent.log")
    warm_up()
    limits = Limits(memory_mb=config.agent.memory_mb, seconds=config.agent.task_seconds)
    answer_tasks(descriptor, client_app, limits, lock=config.storage.folder / "worker.lock")


@app.command()
def status(file: SiteFile, json: Json = False) -> None:
    """What the site is and offers, whether its ledger verifies, and its worst data block."""
    from rich.text import Text

    from clients.cli.block_table import bar, worst
    from clients.cli.join import standing
    from clients.ledger.replay import block_totals
    from clients.site import open_site
    from contract.epsilon import delta_words, epsilon_words
    from contract.outside import shown
    from terminal.output import print_json, print_uncut

    site = open_site(file)
    config, cap, entries = site.config, site.ledger.cap, site.ledger.verify()
    block, agent = worst(block_totals(site.ledger)), _agent_state(config.storage.logs / "agent.log")
    stands = standing(file)
    if json:
        values: dict[str, object] = {
            "site": config.name,
            "stated_rows": config.stated_rows,
            "data": config.data.kind,
        }
        values["card"] = None if config.card is None else config.card.model_dump(mode="json")
        worst_block = None if block is None else block.as_dict()
        values["federation"] = None if stands is None else stands.as_dict()
        print_json({**values, "cap": vars(cap), "entries": entries, "agent": agent, "worst": worst_block})
        return
    rows: list[tuple[str, str | Text]] = [
        ("site", f"{config.name}, {config.stated_rows} rows stated, {config.data.kind}"),
        ("card", Text(card_in_words(config), "yellow" if config.card is None or config.is_draft else "")),
        ("allows", _allowed(config.policy)),
        (
            "",
            "private runs only"
            if config.policy.require_private
            else Text("runs that are not private too", "red"),
        ),
        ("cap", f"ε = {cap.epsilon:g} at δ = {delta_words(cap.delta)} for every data block"),
        ("ledger", f"{entries} entries verify"),
        ("agent", agent),
        (
            "federation",
            "none joined"
            if stands is None
            else Text(f"{stands.words}. {stands.remedy}".rstrip(" ."), "yellow" if stands.remedy else ""),
        ),
    ]
    if block is None:
        rows.append(("worst block", "none: nothing was spent"))
    else:
        spent, promised = epsilon_words(block.spent.epsilon), epsilon_words(block.promised.epsilon)
        at = f"at δ = {delta_words(block.promised.delta)}"
        words = f"  {shown(block.block)}: ε = {spent} spent, at most {promised} with open plans, {at}"
        rows.append(("worst block", bar(block, cap).append(words, "" if block.private else "red")))
    print_uncut(_facts(rows))


app.command()(join)


def _allowed(policy: Policy) -> str:
    """What runs without asking, and what else may."""
    from contract.words import counted

    rule = policy.rule
    if rule is None:
        return "what you approve" if policy.approval == "ask" else "any experiment"
    given = rule.model_dump(exclude_none=True, exclude={"zone"})
    only = given.keys() == {"experiments"}
    words = counted(len(given["experiments"]), "approved experiment") if only else "what policy.allow says"
    return f"{words}, and what you approve" if policy.approval == "ask" else words


for command in (requests, approve, refuse, revoke):
    app.command()(command)
app.command()(cost)
app.command()(ledger)
app.command()(card)
app.command()(check)
app.command()(doctor)
app.command("evidence")(evidence)
app.command()(backup)
app.command()(restore)
app.command()(personal)
app.command()(serve)
app.command("serve-key")(serve_key)
app.command()(predict)


@app.command()
def egress(file: SiteFile, json: Json = False) -> None:
    """What left the site: each reply, what it held, its size and hash; and each refusal, with its word."""
    from clients.site import open_site
    from terminal.output import cell, console, print_json, print_table, times

    left = [entry for entry in open_site(file).ledger.entries() if entry.kind in ("commit", "refuse")]
    if json:
        bodies = [{name: value for name, value in entry.body.items() if name != "salt"} for entry in left]
        print_json([{"request": entry.request, **body} for entry, body in zip(left, bodies, strict=True)])
        return
    when, made = times([entry.body["at"] for entry in left])
    hashed = 12 if console.is_terminal else None
    beginning = "SHA-256…" if hashed else "SHA-256"
    print_table(
        (when, "request", "releases", "bytes", "private", beginning),
        (
            (
                at,
                entry.request,
                *(
                    (
                        ", ".join(entry.body["releases"]),
                        entry.body["bytes"],
                        "yes" if entry.body["private"] else cell("NO", "red"),
                        entry.body["sha256"][:hashed],
                    )
                    if entry.kind == "commit"
                    else (f"refused: {entry.body['word']}", "", "", "")
                ),
            )
            for entry, at in zip(left, made, strict=True)
        ),
        unbroken=(when, "bytes", "private", beginning),
    )


@app.command()
def drift(file: SiteFile, json: Json = False) -> None:
    """Where the full drift reports are; they hold raw values and stay here."""
    from dataclasses import asdict

    from clients.mechanisms.report_files import INDEX, list_reports
    from clients.site_config import read_site_config
    from terminal.output import print_json, print_table, say, times

    folder = read_site_config(file).storage.reports
    found = list_reports(folder)
    if json:
        print_json([{**asdict(report), "folder": str(folder)} for report in found])
        return
    when, made = times([report.made for report in found])
    print_table(
        (when, "experiment", "window", "against", "drift in", "report"),
        (
            (
                at,
                report.experiment,
                ", ".join(report.windows) or "all rows",
                ", ".join(report.reference_windows) or "all rows",
                ", ".join(report.drifted) or "–",
                report.file,
            )
            for report, at in zip(found, made, strict=True)
        ),
        unbroken=(when,),
    )
    if found:
        say(f"They are in {folder}, listed in {folder / INDEX}")


def _wait_to_connect_anew(superlink: str, stop: threading.Event, health: Health) -> None:
    """Until the server listens, if the agent is not to stop; it may be down for a week."""
    import logging

    from clients.line.flower import wait_for_server
    from contract.errors import AddressError

    while not stop.wait(_PAUSE):
        try:
            wait_for_server(superlink, 0.0)
        except AddressError as exc:
            health.say("unreachable", str(exc))
            logging.getLogger("tidegate.agent").warning("%s Trying again.", exc)
        else:
            return


def _worker_command(file: Path, descriptor: int) -> list[str]:
    import sys

    return [sys.executable, "-m", "experiments.cli.main", "site", "work", str(file), str(descriptor)]


def _facts(rows: Iterable[tuple[str, str | Text]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    from terminal.output import cell

    grid = Table.grid(padding=(0, 2))
    for name, value in rows:
        grid.add_row(cell(name, "bold"), value if isinstance(value, Text) else cell(value))
    return grid


def _agent_state(log: Path) -> str:
    """What the agent's log said last of its connection; after `kill -9` that is not what is."""
    from terminal.logs import log_files

    files = log_files(log)
    if not files:
        return "never ran"
    said = ""
    for file in files:
        with file.open(encoding="utf-8", errors="replace", newline="\n") as lines:
            for line in lines:
                if re.match(r"[-0-9]+ [:,0-9]+ INFO tidegate\.agent: site '", line):
                    said = line.rstrip("\n")
        if said:
            break
    if not said:
        return "never connected"
    time, _, words = said.partition(" INFO tidegate.agent: ")
    connected = re.search(r"' is connected to (\S+) as node ", words)
    state = f"connected to {connected[1]}" if connected else "stopped"
    return f"{state}, by its log at {time}"
