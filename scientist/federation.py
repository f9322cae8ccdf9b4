"""What a scientist asks a server, over a connection: sites, cards, runs, versions and their files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from contract.errors import InputError, TidegateError
from contract.experiment import Experiment
from contract.federation_api import (
    MOST_BODY,
    MOST_WINDOWS,
    Cards,
    ModelFiles,
    RunDetail,
    Site,
    SiteCard,
    Sites,
    Submission,
    Submitted,
    Version,
    Versions,
)
from contract.installed_models import with_package
from contract.model_statement import STATEMENT_FILE, require_stated, verify_statement
from contract.model_version import (
    ARRAYS_FILE,
    EXPERIMENT_FILE,
    GRAPH_FILE,
    PASSPORT_DATA,
    PASSPORT_FILE,
    VARIANTS_FILE,
    require_registered,
    sha256,
)
from contract.recipe import asked_rows, needs_recipe, with_recipe
from scientist.connected import path_of
from scientist.connection import Connection

if TYPE_CHECKING:
    from scientist.signing import Signer

_PASSPORTS = {PASSPORT_FILE, PASSPORT_DATA}
"""What is taken of the files' names that a server sends."""

__all__ = [
    "all_settings",
    "cards_of",
    "model_files",
    "require_result",
    "sites_of",
    "submit",
    "versions_of",
]

_CARDS = 50
"""Of a page: that is the most that a server gives."""


def sites_of(connection: Connection) -> list[Site]:
    """The server's sites."""
    return [one for page in connection.pages("/v1/sites", Sites) for one in page.sites]


def cards_of(connection: Connection) -> list[SiteCard]:
    """What each of its sites offers."""
    return [one for page in connection.pages("/v1/cards", Cards, limit=_CARDS) for one in page.cards]


def versions_of(connection: Connection, model: str) -> list[Version]:
    """The versions of a model, oldest first, without their passports."""
    path = f"{path_of('models', model)}/versions"
    return [one for page in connection.pages(path, Versions) for one in page.versions]


def all_settings(experiment: Experiment, connection: Connection) -> Experiment:
    """The experiment, with what it leaves to the recipe (`contract.recipe`) chosen for the server's sites.

    And with the version of its model's package that is installed here, where it states none.
    """
    experiment = with_package(experiment)
    if not needs_recipe(experiment):
        return experiment
    rows = {one.site: one.stated_rows for one in cards_of(connection)}
    return with_recipe(experiment, asked_rows(experiment, rows))


def submit(
    connection: Connection, experiment: Experiment, windows: list[str], *, signer: Signer | None
) -> Submitted:
    """Sign an experiment and submit it as a run.

    Args:
        connection: to the server.
        experiment: the plan.
        windows: whose rows are used; empty for all.
        signer: signs it; None leaves it unsigned.

    Raises:
        InputError: it is longer than a server takes, or the server refuses it.
    """
    text = experiment.model_dump_json()
    if len(text.encode()) > MOST_BODY // 2 or len(windows) > MOST_WINDOWS:
        raise InputError(
            "the experiment is longer than a server takes",
            where=f"experiment '{experiment.name}'",
            remedy=f"Half a MB and {MOST_WINDOWS:,} windows are the most",
        )
    mandate = "" if signer is None else signer.run(experiment, windows)
    asked = Submission(experiment=text, windows=windows, mandate=mandate)
    return connection.post("/v1/runs", Submitted, asked)


def require_result(ended: RunDetail) -> None:
    """Refuse a run that ended without a model.

    Raises:
        TidegateError: with the reason that it gives.
    """
    run = ended.run
    if run.status not in ("succeeded", "partial"):
        raise TidegateError(
            f"the run is {run.status}: {run.error or 'it gives no reason'}",
            where=f"run '{run.name}'",
            remedy=f"See who took part: tidegate runs show {run.name}",
        )


def model_files(connection: Connection, model: str, version: int) -> dict[str, bytes]:
    """A version's files: its passport and the server's statement too, where it signed one.

    They are compared with the statement, whose signature must be of a key of the federation's; without one
    with the hashes of the version's record.

    Raises:
        InputError: there is no such version, or the statement does not hold.
        TidegateError: what was sent is not what was registered.
    """
    path, where = f"{path_of('models', model)}/versions/{version}", f"{model} version {version}"
    sent = connection.get(f"{path}/files", ModelFiles)
    files = {ARRAYS_FILE: sent.arrays, EXPERIMENT_FILE: sent.experiment}
    if sent.statement is None:
        record = connection.get(path, Version)
        for name, content in files.items():
            require_registered(name, content, record.tags, error=TidegateError, where=where)
        return files
    if sent.graph is not None:
        files[GRAPH_FILE] = sent.graph
    if sent.variants is not None:
        files[VARIANTS_FILE] = sent.variants.encode()
    files |= {name: sent.passports.get(name, "").encode() for name in sent.passports.keys() & _PASSPORTS}
    statement = verify_statement(sent.statement, connection.authority.encode(), where=where)
    hashes = {name: sha256(content) for name, content in files.items()}
    require_stated(hashes, statement, model=model, version=version, where=where)
    return {**files, STATEMENT_FILE: json.dumps(sent.statement, indent=1).encode()}
