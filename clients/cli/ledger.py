"""`tidegate site ledger` and `tidegate site evidence`: what was spent, and how others see that it is so."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from clients.ledger.entries import Entry
    from clients.site import Site

__all__ = ["Json", "Key", "SiteFile", "check", "ledger"]

SiteFile = Annotated[Path, typer.Argument(help="The site's site.toml.")]
Key = Annotated[
    Path | None, typer.Option(help="The site's private key; by default keys/node.key beside site.toml.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def ledger(
    file: SiteFile,
    verify: Annotated[bool, typer.Option("--verify", help="Walk the hash chain only.")] = False,
    entries: Annotated[bool, typer.Option("--entries", help="List every entry instead.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw ε by block over time into this .png or .svg.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="Write signed evidence, which `tidegate site evidence` checks.")
    ] = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """What is guaranteed (the cap), what was counted so far of each data block, what is promised and left."""
    from clients.cli.block_table import block_table
    from clients.ledger.replay import block_totals
    from clients.site import open_site
    from contract.epsilon import delta_words
    from terminal.output import print_json, print_uncut, say

    site = open_site(file)
    count, cap = site.ledger.verify(), site.ledger.cap
    if verify:
        if json:
            print_json({"site": site.config.name, "entries": count})
        else:
            say(f"{count} entries verify")
        return
    if entries:
        _print_entries(site.ledger.entries(), json=json)
        return
    totals = block_totals(site.ledger)
    written: dict[str, object] = {}
    if plot is not None:
        written["plot"] = _write_plot(site, plot)
    if export is not None:
        written["evidence"] = _write_evidence(site, export, key or file.parent / "keys" / "node.key")
    if json:
        blocks = [{**total.as_dict(), "left": total.left(cap.epsilon)} for total in totals]
        print_json(
            {"site": site.config.name, "cap": vars(cap), "entries": count, "blocks": blocks, **written}
        )
        return
    capped = f"cap ε = {cap.epsilon:g} at δ = {delta_words(cap.delta)}"
    title = f"site {site.config.name}: {capped}; {count} entries verify"
    print_uncut(block_table(totals, cap, title=title))
    for path in filter(None, (plot, export)):
        say(f"wrote {path}")


def check(
    evidence: Annotated[Path, typer.Argument(help="What `tidegate site ledger --export` wrote.")],
    public_key: Annotated[
        Path | None, typer.Option(help="The site's node.pub, had from elsewhere than the file.")
    ] = None,
    after: Annotated[
        Path | None, typer.Option(help="Earlier evidence of the site, which this one must continue.")
    ] = None,
    json: Json = False,
) -> None:
    """Check evidence without the site: its signature, the hash chain, and that the stated ε follows."""
    from clients.cli.block_table import block_table
    from clients.keys import read_public_key
    from clients.ledger.evidence import check as check_evidence
    from clients.ledger.evidence_file import read_evidence
    from contract.epsilon import delta_words
    from terminal.output import print_json, print_uncut, say

    checked = check_evidence(
        read_evidence(evidence),
        public_key=None if public_key is None else read_public_key(public_key),
        after=None if after is None else read_evidence(after),
    )
    totals, cap = checked.totals, checked.cap
    if json:
        blocks = [{**total.as_dict(), "left": total.left(cap.epsilon)} for total in totals]
        values = {name: value for name, value in vars(checked).items() if name != "totals"}
        print_json({"holds": True, **values, "cap": vars(cap), "blocks": blocks})
        return
    capped = f"cap ε = {cap.epsilon:g} at δ = {delta_words(cap.delta)}"
    title = f"site {checked.site}: {capped}; evidence of {checked.made}"
    print_uncut(block_table(totals, cap, title=title))
    signed = "is the given key's" if public_key else "holds"
    lines = [f"It holds: {checked.entries} entries, unbroken; ε follows from them; the signature {signed}."]
    if checked.added is not None:
        lines.append(f"It continues {after}: {checked.added} entries were added.")
    for line in lines:
        say(line, "green")
    for note in checked.notes:
        say(note, "yellow")


def _print_entries(entries: list[Entry], *, json: bool) -> None:
    from terminal.output import cell, print_json, print_table, times

    if json:
        print_json([{**vars(entry), "body": dict(entry.body)} for entry in entries])
        return
    plain = {
        entry.plan for entry in entries if entry.kind == "authorise" and not entry.body["noise_multiplier"]
    }
    when, made = times([entry.body["at"] for entry in entries])
    rows = []
    for entry, at in zip(entries, made, strict=True):
        style = "red" if entry.plan in plain else ""
        warning = [("NOT PRIVATE" if style else "")] if plain else []
        # what the administrator decided is of no plan: the experiment stands in its place
        plan = entry.plan or entry.body.get("experiment", "")
        cells = (entry.sequence, at, entry.kind, plan, entry.request, *warning)
        rows.append([cell(value, style) for value in cells])
    headings = ("#", when, "entry", "plan", "request", *([""] if plain else []))
    print_table(headings, rows, unbroken=("#", when, "entry", ""))


def _write_plot(site: Site, path: Path) -> str:
    from clients.cli.ledger_plot import plot_ledger
    from clients.ledger.replay import history
    from terminal.new_files import write_plot

    cap = site.ledger.cap
    write_plot(
        path,
        lambda kind: plot_ledger(
            history(site.ledger.entries(), cap=cap), site=site.config.name, cap=cap, kind=kind
        ),
    )
    return str(path)


def _write_evidence(site: Site, path: Path, key: Path) -> dict[str, object]:
    import json
    from datetime import UTC, datetime
    from importlib.metadata import version

    from clients.keys import fingerprint, read_private_key
    from clients.ledger.evidence import export
    from clients.ledger.evidence_file import read_evidence
    from terminal.new_files import write_new

    private = read_private_key(key)
    evidence = export(
        site.ledger,
        site=site.config.name,
        key=private,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        program=f"tidegate {version('tidegate')}",
    )
    write_new(
        path, json.dumps(evidence, indent=1, ensure_ascii=False) + "\n"
    )  # an earlier one is worth keeping
    statement = read_evidence(path).statement
    return {
        "path": str(path),
        "entries": statement.entries,
        "head": statement.head,
        "fingerprint": fingerprint(private.public_key()),
    }
