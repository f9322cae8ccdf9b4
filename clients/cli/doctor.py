"""`tidegate site doctor`: whether a site is ready, and what to do where it is not. Nothing is charged."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from clients.cli.ledger import Json, Key, SiteFile

if TYPE_CHECKING:
    from clients.line.enrolment import Joined
    from clients.site_config import SiteConfig

__all__ = ["doctor"]

_LITTLE, _TOO_LITTLE = 5 * 2**30, 500 * 2**20
"""Bytes free on the disk of the ledger: below the one it is said, below the other releases may fail."""
_MOST_OFF = 5
"""Seconds by which Flower lets a signed request's time be ahead of the server's."""
_SOON = datetime.timedelta(days=30)
_PACKAGES = ("flwr", "torch", "opacus", "dp-accounting", "pandas", "pyarrow")
"""Of which another version than this program's may compute something else."""

State = Literal["ok", "warning", "fault"]
_SIGNS: dict[State, tuple[str, str]] = {
    "ok": ("ok", "green"),
    "warning": ("look", "yellow"),
    "fault": ("FAULT", "bold red"),
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one look found.

    Attributes:
        about: what was looked at.
        what: what is so, in words.
        remedy: what to do about it; empty if nothing is to be done.
    """

    about: str
    state: State
    what: str
    remedy: str = ""


def doctor(
    file: SiteFile,
    superlink: Annotated[
        str | None, typer.Option(help="host:port of a server that the site has not joined, to reach it.")
    ] = None,
    root_certificates: Annotated[
        Path | None, typer.Option(help="That server's certificate authority (PEM).")
    ] = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Look at settings, card, rows, key, ledger, disk and versions, and at the way to the server."""
    from rich.text import Text

    from contract.outside import shown
    from terminal.output import cell, print_json, print_table, say

    found = list(_findings(file, superlink, root_certificates, key or file.parent / "keys" / "node.key"))
    faults = sum(finding.state == "fault" for finding in found)
    if json:
        print_json({"ready": not faults, "findings": [vars(finding) for finding in found]})
    else:
        rows = [
            (
                cell(*_SIGNS[finding.state]),
                finding.about,
                Text(shown(f"{finding.what}. {finding.remedy}".rstrip(" "), limit=1000)),
            )
            for finding in found
        ]
        print_table(("", "about", "what was found"), rows)
        if faults:
            say("The site is not ready.", "bold red")
        else:
            say("The site is ready.", "green")
    if faults:
        raise typer.Exit(1)


def _findings(file: Path, superlink: str | None, authority: Path | None, key: Path) -> Iterator[Finding]:
    from clients.site_config import read_site_config

    configs: list[SiteConfig] = []

    def settings() -> Finding:
        configs.append(read_site_config(file))
        return Finding(about="settings", state="ok", what=f"site '{configs[0].name}'")

    yield _looked("settings", settings)
    for config in configs:
        looks: dict[str, Callable[[], Finding]] = {
            "card": partial(_card, config),
            "rows": partial(_rows, config),
            "key": partial(_key, key),
            "ledger": partial(_ledger, file, config),
            "disk": partial(_disk, config),
            "memory": partial(_memory, config),
            "device": partial(_device, config),
        }
        yield from (_looked(about, look) for about, look in looks.items())
    yield from _versions()
    if superlink is not None:
        yield from _server(superlink, authority)
    elif configs and (file.parent / "keys" / "federation.json").exists():
        yield from _federation(file, configs[0], key)
    else:
        what = "none joined: `tidegate site join TOKEN`, with the token that its operator gives"
        yield Finding(about="server", state="ok", what=what)


def _federation(file: Path, config: SiteConfig, key: Path) -> Iterator[Finding]:
    """The way to the federation that the site has joined, and what it shows there."""
    from clients.cli.join import standing
    from clients.keys import read_private_key
    from clients.line.enrolment import joined

    found: list[Joined] = []

    def look() -> Finding:
        found.extend(filter(None, [joined(file)]))
        found[0].require(config.name).require_key(read_private_key(key))
        stands = standing(file)
        assert stands is not None  # noqa: S101 - it was found just above
        state: State = "fault" if stands.has_ended else "warning" if stands.remedy else "ok"
        return Finding(about="membership", state=state, what=stands.words, remedy=stands.remedy)

    yield _looked("membership", look)
    for one in found:
        server = list(_server(one.gateway, one.authority))
        yield from server
        if server[0].state == "ok":
            yield _looked("admission", partial(_admission, one))


def _admission(site: Joined) -> Finding:
    from clients.line.enrolment import require_admitted

    require_admitted(site)
    return Finding(about="admission", state="ok", what="the operator lets this site in")


def _looked(about: str, look: Callable[[], Finding]) -> Finding:
    """What a look gives; what it raises is a fault."""
    from contract.errors import TidegateError

    try:
        return look()
    except TidegateError as exc:
        place = f"{exc.where}: " if exc.where else ""
        remedy = f"{exc.remedy.rstrip('.')}." if exc.remedy else ""
        return Finding(about=about, state="fault", what=f"{place}{exc.what}", remedy=remedy)
    except OSError as exc:
        return Finding(about=about, state="fault", what=f"{exc.filename}: {exc.strerror}")


def _card(config: SiteConfig) -> Finding:
    from contract.words import counted

    card = config.offered
    columns = counted(len(card.columns), "column")
    unit = "record" if card.person is None else "person"
    return Finding(about="card", state="ok", what=f"{columns}; the privacy unit is the {unit}")


def _rows(config: SiteConfig) -> Finding:
    from clients.rows.sources import check_source, other_encodings
    from contract.errors import DataError

    card, encodings = config.offered, other_encodings(config)
    try:
        check_source(config, card)
    except DataError as exc:
        if not encodings:
            raise
        raise DataError(exc.what, where=exc.where, remedy=encodings[0]) from exc
    if encodings:
        return Finding(about="rows", state="warning", what=encodings[0])
    return Finding(about="rows", state="ok", what="the source is there, with the card's columns")


def _key(path: Path) -> Finding:
    from clients.keys import fingerprint, read_private_key

    private = read_private_key(path)
    if path.stat().st_mode & 0o077:
        return Finding(
            about="key",
            state="fault",
            what=f"other users of this machine can read {path}",
            remedy=f"`chmod 600 {path}`; if somebody may have read it, make a new key.",
        )
    return Finding(about="key", state="ok", what=fingerprint(private.public_key()))


def _ledger(file: Path, config: SiteConfig) -> Finding:
    from clients.site import open_site

    if not config.storage.holdout_key.exists() and not config.storage.ledger.exists():
        return Finding(about="ledger", state="ok", what="none yet: the first task makes it")
    ledger = open_site(file).ledger
    entries = ledger.verify()
    spent = ledger.spent(promised=True)
    spent_words = f"at most ε = {spent.epsilon:.3g} of {ledger.cap.epsilon:g} with open plans"
    words = f"{entries:,} entries verify; {spent_words}"
    full = not ledger.cap.holds(spent.epsilon * 1.05)
    remedy = "Little is left on some data block: `tidegate site ledger` shows which." if full else ""
    return Finding(about="ledger", state="warning" if full else "ok", what=words, remedy=remedy)


def _disk(config: SiteConfig) -> Finding:
    folder = config.storage.folder
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    state: State = "fault" if free < _TOO_LITTLE else "warning" if free < _LITTLE else "ok"
    remedy = "Free some: a full disk stops every release." if state != "ok" else ""
    return Finding(
        about="disk", state=state, what=f"{free / 2**30:.1f} GiB free for the ledger", remedy=remedy
    )


def _memory(config: SiteConfig) -> Finding:
    import psutil

    there, allowed = psutil.virtual_memory().total, config.agent.memory_mb
    what = f"{there / 2**30:.1f} GiB"
    if allowed is None:
        return Finding(about="memory", state="ok", what=f"{what}; a task may take what it needs")
    if allowed * 2**20 > there:
        remedy = "Lower agent.memory_mb."
        return Finding(about="memory", state="warning", what=f"{what}; a task may take more", remedy=remedy)
    return Finding(about="memory", state="ok", what=f"{what}; a task may take {allowed / 1024:.1f}")


def _device(config: SiteConfig) -> Finding:
    if config.agent.device == "cpu":
        return Finding(about="device", state="ok", what="models compute on the processor (agent.device)")
    import torch

    if torch.cuda.is_available():
        name, memory = torch.cuda.get_device_name(), torch.cuda.mem_get_info()[1]
        return Finding(about="device", state="ok", what=f"{name}, {memory / 2**30:.0f} GiB")
    why = "PyTorch is built for processors alone" if torch.version.cuda is None else "no device answers"
    asked = config.agent.device == "cuda"
    return Finding(
        about="device",
        state="warning" if asked else "ok",
        what=f"models compute on the processor: {why}",
        remedy="Install PyTorch for CUDA and the driver, or set agent.device = 'cpu'." if asked else "",
    )


def _versions() -> Iterator[Finding]:
    from importlib import metadata

    from packaging.requirements import Requirement

    wanted = [Requirement(line) for line in metadata.requires("tidegate") or ()]
    for name in _PACKAGES:
        needed = next((one.specifier for one in wanted if one.name == name and one.specifier), None)
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            remedy = "Install what a site needs: `pip install 'tidegate[site]'`."
            yield Finding(about="versions", state="fault", what=f"{name} is not installed", remedy=remedy)
            continue
        if needed is not None and version not in needed:
            yield Finding(
                about="versions",
                state="fault",
                what=f"{name} {version}, and this program needs {needed}",
                remedy="Install it again with its constraints.",
            )
    yield Finding(about="versions", state="ok", what=f"tidegate {metadata.version('tidegate')}")


def _server(superlink: str, authority: Path | None) -> Iterator[Finding]:
    from clients.line.reach import Reached, authority_at, reach

    if authority is None:
        remedy = "Name the operator's ca.pem with --root-certificates."
        yield Finding(
            about="server", state="fault", what="without its authority nobody is trusted", remedy=remedy
        )
        return
    found: list[Reached] = []

    def look() -> Finding:
        found.append(reach(superlink, authority_at(authority)))
        through = f" through the proxy {found[0].proxy}" if found[0].proxy else ""
        return Finding(about="server", state="ok", what=f"{superlink} answers{through}")

    yield _looked("server", look)
    for reached in found:
        yield _clock(reached.ahead)
        left = reached.valid_until - datetime.datetime.now(datetime.UTC)
        yield Finding(
            about="certificate",
            state="warning" if left < _SOON else "ok",
            what=f"the server's is valid until {reached.valid_until:%Y-%m-%d}",
            remedy="Ask the operator to renew it." if left < _SOON else "",
        )


def _clock(ahead: float | None) -> Finding:
    from clients.line.clock import MOST_FOLLOWED

    if ahead is None:
        return Finding(about="clock", state="warning", what="the server does not say what time it is there")
    words = f"your clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the server's"
    if abs(ahead) > MOST_FOLLOWED:
        remedy = "Set it (`timedatectl set-ntp true`): the server refuses requests of another time."
        return Finding(about="clock", state="fault", what=words, remedy=remedy)
    if abs(ahead) > _MOST_OFF:
        remedy = "Set it (`timedatectl set-ntp true`). Until then the agent goes by the server's."
        return Finding(about="clock", state="warning", what=words, remedy=remedy)
    return Finding(about="clock", state="ok", what="as the server's" if not ahead else words)
