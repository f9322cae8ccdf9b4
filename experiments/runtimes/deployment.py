"""The deployment runtime on one machine: the server's processes, and an agent for each site.

What runs here is what runs on many machines: Flower's SuperLink with TLS and
node authentication, one agent a site with its own key, folder and ledger, runs
submitted as Flower app bundles. Only the addresses are all on loopback.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

from clients.keys import PrivateKey, fingerprint, make_node_key, read_private_key
from clients.line.enrolment import JoiningSite
from clients.site_config import read_site_config
from contract.enrolment import Token
from contract.errors import RoundError
from server.enrolment import confirm, invite
from server.federation import Federation, admit
from server.line.flower import ControlClient
from server.settings import quiet_environment

__all__ = ["SITE", "add_site"]

SITE = "site-"
"""How the names of the sites' processes begin."""


def add_site(federation: Federation, name: str, site_file: Path, control: ControlClient) -> int:
    """Let a site in and start its agent: by a token where there is a gateway; return the process id."""
    private, public = make_node_key(site_file.parent / "keys")
    command = [sys.executable, "-m", "experiments.cli.main", "site", "up", str(site_file), "--warm"]
    if federation.file is None:
        admit(name, public, control, federation.settings, federation.name)
        command += ["--superlink", federation.address, "--key", str(private)]
        command += ["--root-certificates", str(federation.files.authority)]
    else:
        _join(federation, site_file, read_private_key(private), control)
    environment = {
        **quiet_environment(),
        "OMP_NUM_THREADS": "1",
        "FLWR_HOME": str(site_file.parent / "flower"),
    }
    return federation.processes.start(f"{SITE}{name}", command, environment, site_file.parent)


def _join(federation: Federation, site_file: Path, key: PrivateKey, control: ControlClient) -> None:
    """What operator and administrator do with one another, both here: invite, ask, confirm, collect."""
    config, settings = read_site_config(site_file), federation.settings
    token, _ = invite(config.name, settings, timedelta(hours=1))
    asking = JoiningSite(
        token=Token.read(token),
        name=config.name,
        key=key,
        stated_rows=config.stated_rows,
        card=config.card,
        keys=site_file.parent / "keys",
    )
    authority = asking.authority()
    asking.ask(authority)
    confirm(
        config.name,
        fingerprint(key.public_key()),
        control,
        settings,
        agrees=lambda asked: asked.stated_rows == config.stated_rows,  # both sides of it are here
    )
    answer = asking.collect(authority)
    if answer.certificate is None:
        raise RoundError(f"site '{config.name}' was confirmed and has no certificate", where=str(site_file))
    asking.keep(authority, asking.own(authority, answer.certificate))
