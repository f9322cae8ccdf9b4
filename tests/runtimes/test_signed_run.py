"""A real run at sites that name the scientist who signed it: the server's own questions are all covered."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from clients.app import app
from clients.code import installed_code_hash
from clients.site import close_site
from contract.mandate import authority_digest, mandate_for, public_key_of, sign_mandate
from experiments.runtimes.inline import InlineGrid
from server.app import run_job
from server.jobs.job import Job, read_job
from server.line.certificates import make_server_files
from server.line.flower import assume_identity
from server.state.storage import open_state
from tests.failure.conftest import home_of, plan
from tests.runtimes.conftest import make_site


def test_every_question_of_a_signed_run_is_covered(tmp_path: Path) -> None:
    key, settings, experiment = (
        Ed25519PrivateKey.generate(),
        home_of(tmp_path / "home"),
        plan(rounds=2, quorum=2),
    )
    sites = [make_site(tmp_path / name, name, seed) for seed, name in enumerate(("north", "south"))]
    authority = make_server_files(tmp_path / "server", ["127.0.0.1"]).authority.read_text()
    for site in sites:
        (site.parent / "keys").mkdir(exist_ok=True)
        (site.parent / "keys" / "ca.pem").write_text(authority)
        site.write_text(f'{site.read_text()}[policy.scientists]\nada = "{public_key_of(key)}"\n')
    mandate = mandate_for(
        experiment, run="small-1", windows=("w1",), code=installed_code_hash(),
        authority=authority_digest(authority), scientist="ada", expires=datetime.now(UTC) + timedelta(days=1),
    )  # fmt: skip
    job = Job(
        kind="train",
        run="small-1",
        experiment=experiment,
        windows=("w1",),
        mandate=sign_mandate(mandate, key),
    )
    assert read_job(json.loads(json.dumps(job.to_run_config())), fallback_run="") == job
    grid = InlineGrid(app, sites, job.to_run_config())
    assume_identity(grid.run_id)
    try:
        run_job(job, grid, settings, admitted=dict(enumerate(("north", "south"), start=1)))
    finally:
        for site in sites:
            close_site(site)
    with open_state(settings.state_url) as state:
        record, rounds = state.run("small-1"), state.rounds("small-1")
    assert record is not None
    assert record.status == "succeeded", record.error
    assert [set(one.counted) for one in rounds] == [{"north", "south"}] * 2
