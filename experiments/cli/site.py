"""`tidegate site …`: for the administrator of a site."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from flwr.app import Message

    from clients.flower import Work

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="For a site: what runs here, what it spent, what left.")

SiteFile = Annotated[Path, typer.Argument(help="The site's site.toml.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_TEMPLATE = """# A Tidegate site. Everything here is public to you alone but `name` and `stated_rows`.
name = "{name}"
# The rough number of training rows, which you state; nobody counts them.
stated_rows = {rows}

[data]
kind = "csv"            # or "parquet" or "sql"
path = "rows"           # a file, a folder of files, or a pattern

[policy]
epsilon_cap = 8.0       # the most that any data block may ever spend
delta_cap = 1e-4
require_private = true

[storage]
folder = "tidegate"     # ledger, reports and logs
"""


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="The folder to make.")],
    name: Annotated[str, typer.Option(help="The site's public name.")],
    rows: Annotated[int, typer.Option(help="Rough number of training rows, stated.")] = 1000,
) -> None:
    """Make a site.toml and the site's key."""
    from contract.errors import InputError
    from experiments.cli.output import console
    from experiments.runtimes.certificates import make_node_key

    path = folder / "site.toml"
    if path.exists():
        raise InputError("there is a site already", where=str(path), remedy="Edit it, or name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows").mkdir(exist_ok=True)
    path.write_text(_TEMPLATE.format(name=name, rows=rows), encoding="utf-8")
    _, public = make_node_key(folder / "keys")
    console.print(
        f"made {path}\nput the rows into {folder / 'rows'}, and give {public} to the federation's operator"
    )


@app.command()
def up(
    file: SiteFile,
    superlink: Annotated[str, typer.Option(help="host:port of the server.")],
    root_certificates: Annotated[Path, typer.Option(help="The server's certificate authority (PEM).")],
    key: Annotated[
        Path | None, typer.Option(help="The site's private key; by default keys/node.key beside site.toml.")
    ] = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the server.")] = 30.0,
) -> None:
    """Run the site's agent until it is stopped."""
    import logging
    import signal
    import threading

    from clients.agent import serve
    from clients.app import warm_up
    from clients.flower import connect, wait_for_server
    from clients.site import open_site

    site = open_site(file)
    site.ledger.verify()
    _log_to(site.config.storage.logs / "agent.log")
    log = logging.getLogger("tidegate.agent")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    wait_for_server(superlink, wait, say=log.info)
    node_config = {"site": str(file.resolve())}
    warm_up()
    with connect(
        superlink,
        root_certificates=root_certificates,
        private_key=key or file.parent / "keys" / "node.key",
        node_config=node_config,
    ) as connection:
        log.info("site '%s' is connected to %s as node %s", site.config.name, superlink, connection.node_id)
        serve(connection, _answer, stop)
    log.info("site '%s' has stopped", site.config.name)


@app.command()
def status(file: SiteFile, json: Json = False) -> None:
    """What the site is, and what its data blocks have spent."""
    from clients.site import open_site
    from experiments.cli.output import figure, print_json, print_table

    site = open_site(file)
    blocks = site.ledger.spent_by_block()
    if json:
        spent = {block: vars(item) for block, item in blocks.items()}
        print_json(
            {
                "site": site.config.name,
                "cap": vars(site.ledger.cap),
                "entries": site.ledger.verify(),
                "spent": spent,
            }
        )
        return
    print_table(
        ("data block", "ε spent", "ε left", "δ", "composition"),
        (
            (
                block,
                _epsilon(item.epsilon),
                figure(max(0.0, site.ledger.cap.epsilon - item.epsilon), 2),
                f"{item.delta:g}",
                item.method,
            )
            for block, item in blocks.items()
        ),
        title=f"site {site.config.name}: cap ε = {site.ledger.cap.epsilon:g}; "
        f"the ledger's {site.ledger.verify()} entries verify",
    )


@app.command()
def ledger(
    file: SiteFile,
    verify: Annotated[bool, typer.Option(help="Walk the hash chain only.")] = False,
    json: Json = False,
) -> None:
    """Every entry of the ledger."""
    from clients.site import open_site
    from experiments.cli.output import console, print_json, print_table

    site = open_site(file)
    count = site.ledger.verify()
    if verify:
        console.print(f"{count} entries verify")
        return
    entries = site.ledger.entries()
    if json:
        print_json([{**vars(entry), "body": dict(entry.body)} for entry in entries])
        return
    print_table(
        ("#", "when", "entry", "plan", "request"),
        ((entry.sequence, entry.body["at"], entry.kind, entry.plan, entry.request) for entry in entries),
    )


@app.command()
def egress(file: SiteFile, json: Json = False) -> None:
    """What left the site: each reply, what it held, its size and hash."""
    from clients.site import open_site
    from experiments.cli.output import print_json, print_table

    left = [entry for entry in open_site(file).ledger.entries() if entry.kind == "commit"]
    if json:
        print_json([{"request": entry.request, **entry.body} for entry in left])
        return
    print_table(
        ("when", "request", "releases", "bytes", "private", "SHA-256"),
        (
            (
                entry.body["at"],
                entry.request,
                ", ".join(entry.body["releases"]),
                entry.body["bytes"],
                "yes" if entry.body["private"] else "[red]NO[/red]",
                entry.body["sha256"][:12],
            )
            for entry in left
        ),
    )


@app.command()
def drift(file: SiteFile) -> None:
    """Where the full drift reports are; they hold raw values and stay here."""
    from clients.site_config import read_site_config
    from experiments.cli.output import print_table

    reports = read_site_config(file).storage.reports
    found = sorted(reports.rglob("*.html"))
    print_table(("experiment", "window", "report"), ((path.parent.name, path.stem, path) for path in found))


def _answer(work: Work) -> Message:
    from clients.app import app as client_app

    return client_app(work.message, work.context)


def _epsilon(value: float) -> str:
    return f"{value:.3f}" if value != float("inf") else "[red]∞ (not private)[/red]"


def _log_to(path: Path) -> None:
    import logging

    path.parent.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [logging.StreamHandler(), logging.FileHandler(path, encoding="utf-8")]
    logging.basicConfig(
        level=logging.INFO, handlers=handlers, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("tidegate").setLevel(logging.INFO)
    for chatty in ("httpx", "flwr"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
