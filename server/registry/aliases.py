"""Which version the alias `champion` of each model points at, read from MLflow's own database.

A server looks every few seconds whether another has moved it. MLflow's client would have to be imported for
that, 150 MB for as long as a server stands; its table is read as it is. Learned about MLflow 3.17: it is
`registered_model_aliases`, a line for each model and alias. Of a tracking server its REST API is asked.
"""

from __future__ import annotations

from pathlib import Path

import httpx
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from contract.errors import StorageError
from server.registry.registry import CHAMPION
from server.state.sqlite_files import opened

__all__ = ["champions"]

_WANTED = "SELECT name, version FROM registered_model_aliases WHERE alias = :alias AND workspace = 'default'"
_SECONDS = 10.0


def champions(tracking_uri: str) -> dict[str, int]:
    """The version by the model's name; none before MLflow has made its tables.

    Raises:
        StorageError: MLflow's database, or its server, is away.
    """
    name = tracking_uri.removeprefix("sqlite:///")
    if name != tracking_uri:
        return _of_file(Path(name))
    try:
        return _of_server(tracking_uri) if tracking_uri.startswith("http") else _of_database(tracking_uri)
    except (SQLAlchemyError, httpx.HTTPError, ValueError, KeyError) as exc:
        raise StorageError(
            f"MLflow does not say where its aliases point ({type(exc).__name__})",
            remedy="See that it answers at the address that MLFLOW_TRACKING_URI names",
        ) from exc


def _of_file(path: Path) -> dict[str, int]:
    if not path.exists():
        return {}
    with opened(path, "MLflow's database") as connection:
        known = "SELECT 1 FROM sqlite_master WHERE name = 'registered_model_aliases'"
        if connection.execute(known).fetchone() is None:
            return {}
        return {name: _number(version) for name, version in connection.execute(_WANTED, {"alias": CHAMPION})}


def _of_database(uri: str) -> dict[str, int]:
    engine = create_engine(uri, poolclass=NullPool)
    with engine.connect() as connection:
        rows = connection.execute(text(_WANTED), {"alias": CHAMPION})
        return {row.name: _number(row.version) for row in rows}


def _number(version: object) -> int:
    """What a database has in the place of a number; -1, which no version is, where it is none."""
    try:
        return int(str(version))
    except ValueError:
        return -1


def _of_server(uri: str) -> dict[str, int]:
    url, found, token = f"{uri.rstrip('/')}/api/2.0/mlflow/registered-models/search", dict[str, int](), ""
    while True:
        answer = httpx.get(url, params={"max_results": 1000, "page_token": token}, timeout=_SECONDS)
        answer.raise_for_status()
        page = answer.json()
        for model in page.get("registered_models", ()):
            for alias in model.get("aliases", ()):
                if alias["alias"] == CHAMPION:
                    found[model["name"]] = int(alias["version"])
        token = page.get("next_page_token", "")
        if not token:
            return found
