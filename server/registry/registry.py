"""The model registry that reviewers open: the one module that imports MLflow's client.

Learned about MLflow 3.17, and built on here:

- Importing its client takes 1.3–2.7 s, connecting to a SQLite file 1 s, and the first
  connection to a new file 3–4 s more, for its migrations; all on 2 cores. So nothing is
  imported or connected before the first call, and `Registry.connect` may be called early.
- `log_batch` costs 14 ms on SQLite for 25 metrics, nearly all of it fixed. Metrics are
  therefore collected for at most half a second: slow rounds are written at once, fast
  ones together, and the last by `finish_run`.
- A model version may point at `runs:/ID/model`; of the folder's `MLmodel` file it reads nothing then.
- With SQLAlchemy 2.1 it warns of a deprecated loader strategy; the warning is dropped here.
- A client of a server that is away retries for minutes. The address is tried first.
"""

from __future__ import annotations

import json
import socket
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from contract.errors import AddressError, RegistryError, StorageError
from contract.experiment import Experiment
from contract.model_version import HASH_TAGS
from server.registry.locations import follow_move
from server.registry.model_files import read_exported, read_files, read_model, write_model
from server.registry.params import flatten, key_of
from server.registry.passport import fitted
from server.settings import apply_quiet_environment
from server.state.records import RunStatus, VersionRecord
from server.state.sqlite_files import require_usable, what_to_do

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

__all__ = ["CHAMPION", "Registry", "load_mlflow"]

CHAMPION = "champion"
_DATABASE = "MLflow's database"
COLLECT_SECONDS = 0.5
CONNECT_SECONDS = 5.0
PARAMS_A_REQUEST = 100
METRICS_A_REQUEST = 1000
ENDINGS: Mapping[RunStatus, str] = {
    "running": "RUNNING",
    "succeeded": "FINISHED",
    "partial": "FINISHED",
    "failed": "FAILED",
    "stopped": "KILLED",
    "refused": "KILLED",
}

Arrays = Mapping[str, npt.NDArray[Any]]


def load_mlflow() -> None:
    """Import MLflow, which takes a second: for who has something else to do meanwhile."""
    apply_quiet_environment()
    import mlflow.tracking  # noqa: F401


class Registry:
    """MLflow's tracking and registry behind the few acts that a run needs.

    Every method raises `RegistryError` when MLflow refuses, and `AddressError` when its
    server cannot be reached.

    Args:
        tracking_uri: `sqlite:///PATH` or the URL of a tracking server.
        artifact_root: where artifacts go, with SQLite; a tracking server has its own.
    """

    def __init__(self, tracking_uri: str, artifact_root: Path) -> None:
        self.tracking_uri = tracking_uri
        self.artifact_root = artifact_root
        self._client: MlflowClient | None = None
        self._waiting: dict[str, list[Any]] = {}
        self._written = 0.0

    def require_usable(self) -> None:
        """Find out, without MLflow, whether its server can be reached or its database used."""
        try:
            self._require_usable()
        except StorageError as exc:
            raise RegistryError(exc.what, where=exc.where, remedy=exc.remedy) from exc

    def connect(self) -> None:
        """Import MLflow and open its database, or find out that it cannot be reached."""
        with self._mlflow():
            pass

    def start_run(
        self,
        experiment: Experiment,
        *,
        run_name: str,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, object] | None = None,
    ) -> str:
        """Start an MLflow run with every key of the experiment as a parameter; gives its id."""
        with self._mlflow() as client:
            home = self._experiment(client, experiment.name)
            known = {"tidegate.experiment_digest": experiment.digest}
            run_id = str(
                client.create_run(home, run_name=run_name, tags={**known, **(tags or {})}).info.run_id
            )
            self._log_params(client, run_id, {**flatten(experiment), **(params or {})})
        return run_id

    def resume_run(self, run_id: str) -> int:
        """Mark a run as running again; gives the last step with a metric, -1 if there is none.

        The metrics of later rounds, up to the checkpoint's, were not written before
        the kill: log them again.
        """
        with self._mlflow() as client:
            client.update_run(run_id, status="RUNNING")
            keys = client.get_run(run_id).data.metrics
            return max((m.step for key in keys for m in client.get_metric_history(run_id, key)), default=-1)

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], *, step: int) -> None:
        """Log figures such as `site/plan-a/log_loss` for a round; one that is not finite is left out."""
        with self._mlflow() as client:
            from mlflow.entities import Metric

            now = int(time.time() * 1000)
            self._waiting.setdefault(run_id, []).extend(
                Metric(key_of(name), float(value), now, step)
                for name, value in metrics.items()
                if np.isfinite(value)
            )
            if time.monotonic() - self._written >= COLLECT_SECONDS:
                self._write_metrics(client)

    def flush(self) -> None:
        """Write the metrics that wait."""
        with self._mlflow() as client:
            self._write_metrics(client)

    def log_dataset(
        self, run_id: str, *, name: str, digest: str, schema: Mapping[str, str], source: str
    ) -> None:
        """Note which data a run used: lineage without values.

        Args:
            name: such as `plan-a`, the site's.
            digest: its first 36 characters are kept, all that MLflow has room for.
            schema: type by column, `double` or `string`.
            source: where it lies, in words; never a path at a site.
        """
        columns = [{"name": column, "type": kind, "required": True} for column, kind in schema.items()]
        with self._mlflow() as client:
            from mlflow.entities import Dataset, DatasetInput, InputTag

            dataset = Dataset(
                name=name,
                digest=digest[:36],
                source_type="site",
                source=json.dumps({"site": source}),
                schema=json.dumps({"mlflow_colspec": columns}),
            )
            client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    def log_file(self, run_id: str, path: Path, *, folder: str | None = None) -> None:
        """Keep a copy of a file with the run."""
        with self._mlflow() as client:
            client.log_artifact(run_id, str(path), folder)

    def log_figure_bytes(self, run_id: str, png: bytes, name: str) -> None:
        """Keep a plot under `plots/`."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(png)
            self.log_file(run_id, path, folder="plots")

    def add_files(self, run_id: str, files: Mapping[str, bytes]) -> None:
        """Put more files beside a run's model; one of a name that is there takes its place."""
        with self._mlflow() as client, tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                path = Path(folder) / name
                path.write_bytes(content)
                client.log_artifact(run_id, str(path), "model")

    def log_text(self, run_id: str, text: str, name: str) -> None:
        """Keep a text as the file `name`."""
        with self._mlflow() as client:
            client.log_text(run_id, text, name)

    def register(
        self,
        name: str,
        run_id: str,
        model_arrays: Arrays,
        *,
        experiment: Experiment,
        description: str,
        tags: Mapping[str, str] | None = None,
    ) -> int:
        """Keep a run's model as the next version of `name`, described by its passport.

        A run has one version: registered twice, after a kill, it gives the first.
        """
        with self._mlflow() as client:
            from mlflow.version import VERSION

            self._registered_model(client, name, experiment.task.description)
            for found in client.search_model_versions(f"name='{name}' and run_id='{run_id}'"):
                return int(found.version)
            with tempfile.TemporaryDirectory() as folder:
                about = {"run_id": run_id, "mlflow_version": VERSION}
                hashes = write_model(Path(folder), model_arrays, experiment, about=about)
                client.log_artifacts(run_id, folder, "model")
            version = client.create_model_version(
                name,
                f"runs:/{run_id}/model",
                run_id,
                tags={**(tags or {}), **hashes},
                description=self._fitted(description),
            )
            return int(version.version)

    def describe(self, name: str, version: int, description: str) -> None:
        """Replace a version's description, for a passport that learned of a decision."""
        with self._mlflow() as client:
            client.update_model_version(name, str(version), self._fitted(description))

    def _fitted(self, description: str) -> str:
        return description if self._file is not None else fitted(description)

    def tag_version(self, name: str, version: int, key: str, value: str) -> None:
        """Set a version's tag, by which MLflow's own search finds it."""
        with self._mlflow() as client:
            client.set_model_version_tag(name, str(version), key, value)

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Point an alias at a version. MLflow keeps no history of it: record the decision first."""
        with self._mlflow() as client:
            client.set_registered_model_alias(name, alias, str(version))

    def remove_alias(self, name: str, alias: str) -> None:
        """Take an alias away."""
        with self._mlflow() as client:
            client.delete_registered_model_alias(name, alias)

    def champion(self, name: str) -> int | None:
        """The version in service; None before the first promotion."""
        return next((found.version for found in self.versions(name) if CHAMPION in found.aliases), None)

    def models(self) -> tuple[str, ...]:
        """The names of all models, in order; of the first thousand."""
        with self._mlflow() as client:
            found = client.search_registered_models(max_results=1000, order_by=["name ASC"])
        return tuple(model.name for model in found)

    def versions(self, name: str) -> tuple[VersionRecord, ...]:
        """All versions of a model, oldest first; none if it is not known."""
        with self._mlflow() as client:
            found = client.search_registered_models(f"name='{name}'")
            aliases = {
                alias: int(version)
                for model in found
                for alias, version in model.aliases.items()
                if str(version).isdecimal()  # whoever reaches MLflow's database writes what they like
            }
            listed = client.search_model_versions(f"name='{name}'", max_results=1000)
        records = (
            VersionRecord(
                version=int(item.version),
                run_id=str(item.run_id),
                description=item.description or "",
                tags=dict(item.tags),
                aliases=tuple(
                    sorted(alias for alias, version in aliases.items() if version == int(item.version))
                ),
            )
            for item in listed
        )
        return tuple(sorted(records, key=lambda record: record.version))

    def load_arrays(
        self, name: str, version: int, known: Mapping[str, str] = MappingProxyType({})
    ) -> dict[str, npt.NDArray[Any]]:
        """A version's arrays, after their bytes were compared with the registered SHA-256.

        Args:
            name: of the model.
            version: of it.
            known: the SHA-256 by file from `server.state.versions`, which holds against what MLflow says.
        """
        with self._mlflow() as client, tempfile.TemporaryDirectory() as folder:
            found = client.get_model_version(name, str(version))
            path = Path(client.download_artifacts(str(found.run_id), "model", folder))
            return read_model(path, tags=_tags(found.tags, known), where=f"{name} version {version}")

    def files(
        self, name: str, version: int, known: Mapping[str, str] = MappingProxyType({})
    ) -> dict[str, bytes]:
        """What a prediction by a version depends on, by the file's name; compared as `load_arrays` does."""
        with self._mlflow() as client, tempfile.TemporaryDirectory() as folder:
            found = client.get_model_version(name, str(version))
            path = Path(client.download_artifacts(str(found.run_id), "model", folder))
            where = f"{name} version {version}"
            return {
                **read_files(path, tags=_tags(found.tags, known), where=where),
                **read_exported(path, known, where=where),
            }

    def file_hashes(self, name: str, version: int) -> dict[str, str]:
        """The SHA-256 of a version's files by name, as they were registered with it."""
        with self._mlflow() as client:
            tags = client.get_model_version(name, str(version)).tags
        return {file: tags[tag] for file, tag in HASH_TAGS.items() if tag in tags}

    def finish_run(self, run_id: str, status: RunStatus) -> None:
        """Write what waits and end the run; the tag `tidegate.status` holds our own word for it."""
        with self._mlflow() as client:
            self._write_metrics(client)
            client.set_tag(run_id, "tidegate.status", status)
            client.set_terminated(run_id, ENDINGS[status])

    @contextmanager
    def _mlflow(self) -> Iterator[MlflowClient]:
        """The client, made on first use; its errors become ours."""
        apply_quiet_environment()
        from mlflow.exceptions import MlflowException

        try:
            if self._client is None:
                self._client = self._connected()
            yield self._client
        except StorageError as exc:
            raise RegistryError(exc.what, where=exc.where, remedy=exc.remedy) from exc
        except MlflowException as exc:
            known = what_to_do(str(exc), _DATABASE)
            words, remedy = known or (
                f"MLflow refused: {str(exc).strip().splitlines()[0][:300]}",
                "Check the tracking server and MLFLOW_TRACKING_URI",
            )
            raise RegistryError(words, where=_without_password(self.tracking_uri), remedy=remedy) from exc
        except OSError as exc:
            raise RegistryError(
                f"MLflow's files cannot be used ({exc.strerror or type(exc).__name__})",
                where=str(exc.filename or self.artifact_root),
                remedy="See that the folder may be written and its disk has space",
            ) from exc

    def _connected(self) -> MlflowClient:
        import logging

        from mlflow.tracking import MlflowClient

        self._require_usable()
        self._make_folders()
        if self._file is not None:
            follow_move(self._file, self.artifact_root)
        for chatty in ("mlflow.store.db.utils", "alembic"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The ``noload`` loader strategy is deprecated")
            return MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)

    def _require_usable(self) -> None:
        _try_address(self.tracking_uri)
        if self._file is not None:
            require_usable(self._file, _DATABASE)

    @property
    def _file(self) -> Path | None:
        """MLflow's database where it is an SQLite file."""
        name = self.tracking_uri.removeprefix("sqlite:///")
        return None if name == self.tracking_uri else Path(name)

    def _make_folders(self) -> None:
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self.artifact_root.mkdir(parents=True, exist_ok=True)

    def _experiment(self, client: MlflowClient, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        local = self.tracking_uri.startswith("sqlite:")
        place = (self.artifact_root / name).as_uri() if local else None
        try:
            return str(client.create_experiment(name, artifact_location=place))
        except MlflowException as exc:
            found = client.get_experiment_by_name(name)  # another process was first
            if exc.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                raise
            return str(found.experiment_id)

    def _registered_model(self, client: MlflowClient, name: str, description: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            client.create_registered_model(name, description=description)
        except MlflowException as exc:
            if exc.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _log_params(self, client: MlflowClient, run_id: str, params: Mapping[str, object]) -> None:
        from mlflow.entities import Param

        listed = [Param(key_of(name), str(value)) for name, value in params.items()]
        for start in range(0, len(listed), PARAMS_A_REQUEST):
            client.log_batch(run_id, params=listed[start : start + PARAMS_A_REQUEST])

    def _write_metrics(self, client: MlflowClient) -> None:
        for run_id, metrics in self._waiting.items():
            while metrics:
                client.log_batch(run_id, metrics=metrics[:METRICS_A_REQUEST])
                del metrics[:METRICS_A_REQUEST]
        self._written = time.monotonic()


def _tags(tags: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """A version's tags, in which the hashes that are known stand in the place of MLflow's."""
    return {**tags, **{HASH_TAGS[file]: value for file, value in known.items() if file in HASH_TAGS}}


def _try_address(uri: str) -> None:
    """Connect once, quickly, where MLflow would retry for minutes."""
    address = urlsplit(uri)
    if address.scheme not in ("http", "https"):
        return
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=CONNECT_SECONDS).close()
    except OSError as exc:
        raise AddressError(
            f"the MLflow server cannot be reached ({exc.strerror or exc})",
            where=_without_password(uri),
            remedy="Start it, or correct MLFLOW_TRACKING_URI",
        ) from exc


def _without_password(uri: str) -> str:
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if "@" in rest else uri
