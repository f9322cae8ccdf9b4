"""MLflow's database, made or migrated in a process of its own: `python -m server.registry.first_connection`.

MLflow takes 110 MB and is needed again only when somebody looks at models. A server that stands does not keep
it for the rest of its life because it looked once, at its start, whether the database can be used.
"""

from __future__ import annotations

import subprocess
import sys

from contract.collector import collect_rarely
from server.registry.registry import Registry
from server.settings import read_settings

__all__ = ["connect_apart"]


def connect_apart(registry: Registry) -> None:
    """Do as `registry.connect` does, elsewhere; what goes wrong there goes wrong here again, and is said.

    Args:
        registry: that of the environment's settings.

    Raises:
        TidegateError: MLflow's database cannot be used.
    """
    command = [sys.executable, "-m", "server.registry.first_connection"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        registry.connect()


def main() -> None:
    """Connect to what the environment names."""
    collect_rarely()
    settings = read_settings()
    Registry(settings.tracking_uri, settings.artifact_root).connect()


if __name__ == "__main__":
    main()
