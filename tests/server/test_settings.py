import os
import subprocess
import sys
from pathlib import Path

import pytest

from contract.errors import InputError
from server.settings import LARGEST_REPLY, quiet_environment, read_settings


def test_defaults_lie_below_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = read_settings({"TIDEGATE_HOME": ""})
    assert settings.home == tmp_path / ".tidegate"
    assert settings.state_url == f"sqlite:///{tmp_path}/.tidegate/state.db"
    assert settings.tracking_uri == f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    assert settings.artifact_root == tmp_path / "mlruns" / "artifacts"


def test_the_environment_is_read(tmp_path: Path) -> None:
    settings = read_settings(
        {
            "TIDEGATE_HOME": str(tmp_path),
            "TIDEGATE_STATE_URL": "postgresql://host/tidegate",
            "MLFLOW_TRACKING_URI": "https://mlflow.example",
            "TIDEGATE_ARTIFACT_ROOT": "/artifacts",
        }
    )
    assert settings.home == tmp_path
    assert settings.state_url == "postgresql://host/tidegate"
    assert settings.tracking_uri == "https://mlflow.example"
    assert settings.artifact_root == Path("/artifacts")


def test_home_alone_moves_the_state_database(tmp_path: Path) -> None:
    assert read_settings({"TIDEGATE_HOME": str(tmp_path)}).state_url == f"sqlite:///{tmp_path}/state.db"


def test_the_largest_reply_is_a_number_of_mb() -> None:
    assert read_settings({}).largest_reply == LARGEST_REPLY
    assert read_settings({"TIDEGATE_LARGEST_REPLY": "512"}).largest_reply == 512 * 2**20


@pytest.mark.parametrize("text", ["0", "-1", "256MB", "1e3", "9" * 9])
def test_a_largest_reply_that_is_no_number_of_mb_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="TIDEGATE_LARGEST_REPLY"):
        read_settings({"TIDEGATE_LARGEST_REPLY": text})


def test_the_libraries_take_the_quiet_environment_as_off() -> None:
    code = (
        "from mlflow.telemetry.utils import is_telemetry_disabled; assert is_telemetry_disabled()\n"
        "from flwr.supercore import update_check, telemetry; import os\n"
        "assert os.environ[update_check.FLWR_DISABLE_UPDATE_CHECK] == '1'\n"
        "assert telemetry.FLWR_TELEMETRY_ENABLED == '0'\n"
    )
    known = {name: value for name, value in os.environ.items() if name not in ("CI", "PYTEST_CURRENT_TEST")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**known, **quiet_environment()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
