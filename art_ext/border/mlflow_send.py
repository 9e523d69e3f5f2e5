"""Sends an outbox to MLflow: each thing once, in an order that may be broken off and taken up anywhere.

Before a request that would make something a second time if its answer got lost (a run, a logged
network, a version), the position says that it was asked for; whoever goes on looks for it first.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from art_ext.border import mlflow_registry
from art_ext.border.mlflow_manners import one_line
from art_ext.border.mlflow_names import NAME_LENGTH, cleaned_keys
from art_ext.border.mlflow_outbox import ARTIFACTS, MODEL, Opening, Position, file_digest
from art_ext.border.mlflow_store import client_of
from art_ext.engine.journal import FILE, Entry, read_from

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

__all__ = ["TOKEN", "Sender", "pending"]

TOKEN = "art_ext.token"

_METRICS_A_BATCH = 1000  # MLflow's own limits
_PARAMS_A_BATCH = 100

_log = logging.getLogger("art_ext.border.mlflow")

T = TypeVar("T")


class Sender:
    """Brings what a run's folder holds to MLflow; `send` may be called again and again.

    Args:
        uri: of the store or server.
        folder: the run's.
        position: of that folder; changed and saved with every step.
    """

    def __init__(self, uri: str, folder: Path, position: Position) -> None:
        self.uri, self.folder, self.position = uri, folder, position
        self._client: MlflowClient | None = None
        self._seen: dict[str, tuple[int, int]] = {}
        self._met = False

    def send(self, opened: Callable[[], object] = lambda: None) -> None:
        """Sends what has not been sent.

        Args:
            opened: called once the run and its parameters are there.

        Raises:
            Exception: of MLflow or of the network, for what did not arrive.
        """
        if self._client is None:
            self._client = client_of(self.uri)
        client, opening = self._client, Opening.load(self.folder)
        if opening is None:
            raise FileNotFoundError(f"{self.folder} holds no outbox.json; nothing says what to send")
        run_id = self._send_run(client, opening)
        if not self.position.opened:
            self._send_opening(client, run_id, opening)
            self.position.opened = True
            self._save()
        opened()
        self._send_model(client, run_id, opening)
        self._send_points(client, run_id, opening)
        self._send_files(client, run_id)
        self._send_tags(client, run_id, opening)
        self._send_version(client, run_id, opening)
        self._send_status(client, run_id)

    # -- in this order

    def _send_run(self, client: MlflowClient, opening: Opening) -> str:
        position = self.position
        if position.run_id is not None:
            if position.experiment_id is None or (not position.joined and not self._met):
                run = client.get_run(position.run_id)
                position.experiment_id = run.info.experiment_id
                if not position.joined and run.info.status != "RUNNING" and not position.status:
                    client.update_run(position.run_id, status="RUNNING")
            self._met = True
            return position.run_id
        tags = {TOKEN: position.token, **opening.tags}
        if opening.parent is not None:
            tags["mlflow.parentRunId"] = self._beside(opening.parent, "run_id", "its parent run is not there yet")
        if position.experiment_id is None:
            position.experiment_id = self._experiment(client)
        found: Sequence[Any] = ()
        if position.asked:
            wanted = f"tags.`{TOKEN}` = '{position.token}'"
            found = client.search_runs([position.experiment_id], filter_string=wanted, max_results=1)
        position.asked = True
        self._save()
        run = found[0] if found else client.create_run(position.experiment_id, run_name=opening.name, tags=tags)
        position.run_id = str(run.info.run_id)
        self._met = True
        self._save()
        return position.run_id

    def _beside(self, folder: str, what: str, lacking: str) -> str:
        """What the position of another run says, which this one has to wait for."""
        other = Position.load(self.folder / folder)
        value = None if other is None else getattr(other, what)
        if value is None:
            raise ConnectionError(lacking)
        return str(value)

    def _experiment(self, client: MlflowClient) -> str:
        from mlflow.exceptions import MlflowException

        name = self.position.experiment
        known = client.get_experiment_by_name(name)
        if known is None:
            try:
                return client.create_experiment(name, artifact_location=self.position.artifact_location)
            except MlflowException:
                known = client.get_experiment_by_name(name)  # somebody else was faster
                if known is None:
                    raise
        if known.lifecycle_stage != "active":
            raise RuntimeError(f"the experiment {name} was deleted there; restore it, or name another one")
        return known.experiment_id

    def _send_opening(self, client: MlflowClient, run_id: str, opening: Opening) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

        params = dict(opening.params)
        if self.position.joined:
            params = _unlike(params, client.get_run(run_id).data.params)
        tags = [RunTag(key, value) for key, value in opening.tags.items()]
        for some in _chunks([Param(key, value) for key, value in params.items()], _PARAMS_A_BATCH):
            self._deliver("parameters", partial(client.log_batch, run_id, params=some))
        for more in _chunks(tags, _PARAMS_A_BATCH):
            self._deliver("tags", partial(client.log_batch, run_id, tags=more))
        if opening.dataset is not None:
            made = DatasetInput(Dataset(**opening.dataset), tags=[InputTag("mlflow.data.context", opening.context)])
            self._deliver("the data set", partial(client.log_inputs, run_id, datasets=[made]))

    def _send_model(self, client: MlflowClient, run_id: str, opening: Opening) -> None:
        from mlflow.entities import LoggedModelOutput

        position, place = self.position, self.folder / MODEL
        if position.model_tied or not (place / "MLmodel").is_file():
            return
        if position.model_id is None:
            position.model_id = self._logged_model(client, run_id, opening)
            self._save()
        if not position.model_sent:
            location = client.get_logged_model(position.model_id).artifact_location
            with tempfile.TemporaryDirectory(prefix="art_ext-model-") as folder:
                copy = Path(folder) / MODEL
                shutil.copytree(place, copy)
                _sign(copy, run_id, position.model_id, location)
                client.log_model_artifacts(position.model_id, str(copy))
            client.finalize_logged_model(position.model_id, "READY")
            position.model_sent = True
            self._save()
        outputs = client.get_run(run_id).outputs
        if position.model_id not in {out.model_id for out in (outputs.model_outputs if outputs else ())}:
            client.log_outputs(run_id, [LoggedModelOutput(position.model_id, step=0)])
        position.model_tied = True
        self._save()

    def _logged_model(self, client: MlflowClient, run_id: str, opening: Opening) -> str:
        experiment, token = self.position.experiment_id, self.position.token
        assert experiment is not None
        if self.position.model_asked:
            wanted = f"tags.`{TOKEN}` = '{token}'"
            for known in client.search_logged_models([experiment], filter_string=wanted, max_results=1):
                return str(known.model_id)
        self.position.model_asked = True
        self._save()
        made = client.create_logged_model(
            experiment,
            name=MODEL,
            source_run_id=run_id,
            params={key: value for key, value in opening.params.items() if value},
            tags={TOKEN: token, "art_ext.version": opening.tags.get("art_ext.version", "")},
        )
        return str(made.model_id)

    def _send_points(self, client: MlflowClient, run_id: str, opening: Opening) -> None:
        journal = self.folder / FILE
        if not journal.exists():
            return
        entries, end = read_from(journal, self.position.offset)
        points = [point for entry in entries for point in self._metrics(entry, opening)]
        # sent twice is sent once: MLflow drops a point of equal name, step, time and value
        for some in _chunks(points, _METRICS_A_BATCH):
            self._deliver("metrics", partial(client.log_batch, run_id, metrics=some))
        if end != self.position.offset:
            self.position.offset = end
            self._save()

    def _metrics(self, entry: Entry, opening: Opening) -> list[Metric]:
        from mlflow.entities import Metric

        model_id, about = None, {}
        if entry.event == "end" and entry.metrics:
            model_id = self.position.model_id
            if opening.model_of is not None and (self.folder / opening.model_of / MODEL / "MLmodel").is_file():
                model_id = self._beside(opening.model_of, "model_id", "the network that it is about is not there yet")
            if model_id is not None and opening.dataset is not None:
                about = {"dataset_name": opening.dataset["name"], "dataset_digest": opening.dataset["digest"]}
        return [
            Metric(name, value, round(entry.time * 1000), entry.epoch, model_id=model_id, **about)
            for name, value in cleaned_keys(entry.metrics).items()
        ]

    def _send_files(self, client: MlflowClient, run_id: str) -> None:
        for name, path in staged(self.folder).items():
            state = path.stat()
            stamp = (state.st_mtime_ns, state.st_size)
            if self._seen.get(name) == stamp and name in self.position.files:
                continue
            digest = file_digest(path)
            if self.position.files.get(name) != digest:
                parent, _, _ = name.rpartition("/")
                self._deliver(f"the file {name}", partial(client.log_artifact, run_id, str(path), parent or None))
                self.position.files[name] = digest
                self._save()
            self._seen[name] = stamp

    def _send_tags(self, client: MlflowClient, run_id: str, opening: Opening) -> None:
        for name, value in opening.later.items():
            if self.position.tags.get(name) != value:
                self._deliver(f"the tag {name}", partial(client.set_tag, run_id, name, value))
                self.position.tags[name] = value
                self._save()

    def _send_version(self, client: MlflowClient, run_id: str, opening: Opening) -> None:
        position, wanted = self.position, opening.registration
        if wanted is None or position.registered == wanted.digest or "the registration" in position.refused:
            return
        if position.model_id is None:
            raise ConnectionError("the network to be registered is not there yet")
        asked, position.version_asked = position.version_asked, True
        self._save()

        def register() -> None:
            assert position.model_id is not None
            if position.version is None:
                position.version = mlflow_registry.register(
                    client,
                    wanted,
                    position.model_id,
                    run_id,
                    token=position.token,
                    look=asked,
                    server=_is_server(self.uri),
                )
            mlflow_registry.describe(client, wanted.name, position.version, wanted.description, wanted.tags)
            position.registered = wanted.digest

        self._deliver("the registration", register)
        self._save()

    def _send_status(self, client: MlflowClient, run_id: str) -> None:
        position = self.position
        if position.status is None or position.ended:
            return
        if not position.joined:
            self._deliver("the status", partial(client.set_terminated, run_id, status=position.status))
        position.ended = True
        self._save()

    # -- inside

    def _deliver(self, what: str, send: Callable[[], object]) -> None:
        """Sends one thing. What MLflow refuses is named and left behind; what did not arrive raises."""
        from mlflow.exceptions import MlflowException

        try:
            send()
        except MlflowException as error:
            answer: Any = error
            status = answer.get_http_status_code()
            if not 400 <= status < 500 or status in (401, 403, 408, 429):
                raise
            self.position.refused[what] = one_line(error)
            _log.warning("MLflow refused %s of the run in %s (%s)", what, self.folder, one_line(error))

    def _save(self) -> None:
        self.position.save(self.folder)


def staged(folder: Path) -> dict[str, Path]:
    """The files of an outbox by their names as artifacts."""
    place = folder / ARTIFACTS
    return {path.relative_to(place).as_posix(): path for path in sorted(place.rglob("*")) if path.is_file()}


def pending(folder: Path, position: Position) -> list[str]:
    """What an outbox holds that was not sent, in words."""
    opening = Opening.load(folder)
    if opening is None:
        return []
    found = [] if position.opened else ["parameters and tags"]
    journal = folder / FILE
    entries = read_from(journal, position.offset)[0] if journal.exists() else []
    points = sum(len(entry.metrics) for entry in entries)
    files = [name for name, path in staged(folder).items() if position.files.get(name) != file_digest(path)]
    tags = [name for name, value in opening.later.items() if position.tags.get(name) != value]
    found += [_counted(points, "point"), _counted(len(files), "file"), _counted(len(tags), "tag")]
    if (folder / MODEL / "MLmodel").is_file() and not position.model_tied:
        found.append("the network")
    if opening.registration is not None and position.registered != opening.registration.digest:
        found.append(f"its registration as {opening.registration.name}")
    if position.status is not None and not position.ended:
        found.append(f"the status {position.status}")
    return [item for item in found if item]


def _counted(n: int, what: str) -> str:
    return "" if n == 0 else f"{n} {what}{'s' if n > 1 else ''}"


def _sign(folder: Path, run_id: str, model_id: str, location: str) -> None:
    """Writes into MLmodel whose network this is."""
    import yaml

    path = folder / "MLmodel"
    card = yaml.safe_load(path.read_text())
    card |= {"run_id": run_id, "model_id": model_id, "model_uuid": model_id, "artifact_path": location}
    path.write_text(yaml.safe_dump(card, sort_keys=False))


def _is_server(uri: str) -> bool:
    return not uri.startswith(("sqlite:", "file:", "postgresql", "mysql", "mssql"))


def _unlike(params: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """Parameters for a run that has some already; MLflow never lets a value change, so those get a new name."""
    result: dict[str, str] = {}
    for key, value in params.items():
        name, number = key, 2
        while known.get(name, value) != value:
            name, number = f"{key[: NAME_LENGTH - 5]}.{number}", number + 1
        result[name] = value
    return result


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
