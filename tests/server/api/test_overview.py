"""What the federation page makes of results that runs left."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from server.api.overview import diagnoses_of
from server.state.records import RunRecord
from tests.server.federation import plan


def left(result: str) -> RunRecord:
    return RunRecord(
        name="run",
        experiment="fake",
        experiment_digest="",
        experiment_json=plan().model_dump_json(),
        job="train",
        status="succeeded",
        trigger="",
        code_hash="",
        started=datetime.now(UTC),
        ended=datetime.now(UTC),
        error="",
        mlflow_run_id=None,
        model_version=1,
        result=result,
    )


def test_a_run_is_shown_with_its_verdict() -> None:
    told = json.dumps({"diagnosis": {"sentences": ["NOT CONVERGED. …", "Log loss: …"]}})
    assert diagnoses_of([left(told)]) == {"run": "NOT CONVERGED. …"}


def test_and_with_the_share_of_gradients_that_was_clipped_last() -> None:
    counted = {"9": {"overall": {"words": "80 % ± 2 %"}}, "10": {"overall": {"words": "12 % ± 2 % clipped"}}}
    told = json.dumps({"diagnosis": {"sentences": ["The run converged."], "clipped": counted}})
    assert diagnoses_of([left(told)]) == {"run": "The run converged. Gradients: 12 % ± 2 % clipped."}


@pytest.mark.parametrize("result", ["", "{}", "[]", "no JSON", '{"diagnosis": {"sentences": []}}', "3"])
def test_a_result_of_another_version_has_none(result: str) -> None:
    assert diagnoses_of([left(result)]) == {}
