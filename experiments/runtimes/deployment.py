"""The deployment runtime on one machine: the server's processes, and an agent for each site.

What runs here is what runs on many machines: Flower's SuperLink with TLS and
node authentication, one agent a site with its own key, folder and ledger, runs
submitted as Flower app bundles. Only the addresses are all on loopback.
"""

from __future__ import annotations

import sys
from pathlib import Path

from clients.keys import make_node_key
from server.federation import Federation, admit
from server.line.flower import ControlClient
from server.settings import quiet_environment

__all__ = ["SITE", "add_site"]

SITE = "site-"
"""How the names of the sites' processes begin."""


def add_site(federation: Federation, name: str, site_file: Path, control: ControlClient) -> int:
    """Admit a site's key and start its agent; return the process id."""
    private, public = make_node_key(site_file.parent / "keys")
    admit(name, public, control, federation.settings, federation.name)
    command = [
        *(sys.executable, "-m", "experiments.cli.main", "site", "up", str(site_file)),
        *("--superlink", federation.address, "--root-certificates", str(federation.files.authority)),
        *("--key", str(private), "--warm"),
    ]
    environment = {
        **quiet_environment(),
        "OMP_NUM_THREADS": "1",
        "FLWR_HOME": str(site_file.parent / "flower"),
    }
    return federation.processes.start(f"{SITE}{name}", command, environment, site_file.parent)
