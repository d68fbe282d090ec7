"""What a finished job leaves in the store, and how it is read back."""

from __future__ import annotations

import io
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distill_ray.errors import DamagedError, first_line
from distill_ray.job import Computation, Job
from distill_ray.metrics import fit_temperature
from distill_ray.metrics.judgement import Judgement
from distill_ray.store import MANIFEST, Record, Store

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "weights.safetensors"
EPOCHS = "epochs.parquet"
JUDGEMENT = "judgement.parquet"


@dataclass(frozen=True, eq=False)
class Predictions:
    """The predictions of a network or an ensemble on one split: log-probabilities (N, K) in nats,
    and the true labels (N,).

    For regression, whose labels are real numbers, they are mean and log-variance (N, 2) instead of
    log-probabilities.
    """

    log_probabilities: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class JobRecord:
    """A finished job: what it was, what it scored, and its files."""

    record: Record
    _evaluations: dict[str, Record] = field(default_factory=dict, repr=False, compare=False)
    """What it has predicted besides the validation split, as far as it has been read."""

    @property
    def job(self) -> Job:
        """What was trained."""
        return Job.from_dict(self.record.info["job"])

    @property
    def parameters(self) -> int:
        """Trainable numbers in the deployed network."""
        return int(self.record.info["parameters"])

    @property
    def computation(self) -> Computation | None:
        """What computed it: precision, device, threads, workers and torch; None if unknown."""
        values = self.record.info.get("computation")
        try:
            computation = Computation(**values) if isinstance(values, dict) else None
        except TypeError:  # other fields, of another version
            return None
        if computation is None or not all(
            isinstance(value, str | int) for value in asdict(computation).values()
        ):
            return None
        return computation

    @property
    def seconds(self) -> float:
        """Time spent in its epochs."""
        return float(self.record.info["seconds"])

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the epoch whose weights were kept."""
        return dict(self.record.info["metrics"])

    def epochs(self) -> list[dict[str, float]]:
        """The metrics of each epoch, in order. Raises `DamagedError` as `Record.read` does."""
        rows = _table(self.record.read(EPOCHS)).to_pylist()
        return [{name: value for name, value in row.items() if value is not None} for row in rows]

    @property
    def diversity(self) -> dict[str, float]:
        """How much the members or heads that it was trained with disagree on the validation split;
        empty without such.
        """
        last = self.epochs()[-1]
        return {
            name.removeprefix("members/"): value
            for name, value in last.items()
            if name.startswith("members/")
        }

    def weights(self) -> dict[str, Tensor]:
        """The tensors of the deployed network by name.

        Raises `DamagedError` as `Record.read` does, and where the file holds no weights that a
        network can compute with.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            tensors = load(self.record.read(WEIGHTS))
        except SafetensorError as error:
            raise self._void(f"is no safetensors file ({first_line(error)})") from None
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise self._void(f"has values in {name} that are not finite")
        return tensors

    def _void(self, fault: str) -> DamagedError:
        """Set the record aside because of its weights; the error to raise."""
        store = self.record.store
        store.set_aside(posixpath.join(self.record.key, MANIFEST))
        return DamagedError(
            f"{store.shown}: {self.record.files[WEIGHTS]['path']} {fault}; its record was set "
            "aside, and running the study makes it anew"
        )

    @property
    def has_read_test(self) -> bool:
        """Whether it has predicted the test split."""
        return self._evaluation("test") is not None

    def predictions(self, split: Literal["validation", "test"]) -> Predictions | None:
        """The predictions on a split; None while the test split has not been read with this job.

        Raises `DamagedError` as `Record.read` does.
        """
        record = self.record if split == "validation" else self._evaluation(split)
        if record is None:
            return None
        table = _table(record.read(f"predictions-{split}.parquet"))
        flat = table["log_probabilities"].combine_chunks().flatten().to_numpy()
        return Predictions(flat.reshape(table.num_rows, -1), table["label"].to_numpy())

    @property
    def temperature(self) -> float:
        """What calibrates the network on its validation split: logits divided by it are as sure
        as they are right there. Raises `DamagedError` as `Record.read` does.
        """
        predictions = self.predictions("validation")
        assert predictions is not None  # every job saves them
        return fit_temperature(predictions.log_probabilities, predictions.labels)

    def has_judged(self, images: str) -> bool:
        """Whether it has judged these images: `test`, or the key of a foreign set."""
        return self._evaluation(_judged(images)) is not None

    def judgement(self, images: str) -> Judgement | None:
        """What it says of `test` or a foreign set beyond the class; None while it has not been
        asked. Raises `DamagedError` as `Record.read` does.
        """
        record = self._evaluation(_judged(images))
        if record is None:
            return None
        table = _table(record.read(JUDGEMENT))
        flat = table["prediction"].combine_chunks().flatten().to_numpy()
        prediction, epistemic = flat.reshape(table.num_rows, -1), table["epistemic"].to_numpy()
        energy = table["energy"].to_numpy() if "energy" in table.column_names else None
        return Judgement(prediction, epistemic, energy)

    def _evaluation(self, split: str) -> Record | None:
        if split not in self._evaluations:
            record = self.record.store.get(_evaluation_key(self.record.key, split))
            if record is None:
                return None
            self._evaluations[split] = record
        return self._evaluations[split]


def find_job(store: Store, job_id: str) -> JobRecord | None:
    """The finished job with that id, or None. A record that says too little of its job, or
    another's, is set aside.
    """
    record = store.get(job_key(job_id))
    if record is None:
        return None
    if not _is_of_a_job(record):
        store.set_aside(posixpath.join(record.key, MANIFEST))
        return None
    return JobRecord(record)


def _is_of_a_job(record: Record) -> bool:
    info = record.info
    numbers = [info.get("parameters"), info.get("seconds")]
    metrics = info.get("metrics")
    if not isinstance(info.get("job"), dict) or not isinstance(metrics, dict):
        return False
    named = {WEIGHTS, EPOCHS, "predictions-validation.parquet"} <= record.files.keys()
    checked = all({"path", "bytes", "sha256"} <= entry.keys() for entry in record.files.values())
    return (
        named
        and checked
        and all(isinstance(number, int | float) for number in [*numbers, *metrics.values()])
    )


def save_job(
    store: Store,
    job: Job,
    *,
    weights: Mapping[str, Tensor],
    epochs: Sequence[Mapping[str, float]],
    kept_epoch: int,
    predictions: Predictions,
    parameters: int,
    computation: Computation | None = None,
) -> JobRecord:
    """Put a finished job into the store."""
    from safetensors.torch import save

    files = {
        WEIGHTS: save(dict(weights)),
        EPOCHS: _parquet(
            pa.table(
                {
                    name: [epoch.get(name) for epoch in epochs]
                    for name in dict.fromkeys(chain(*epochs))
                }
            )
        ),
        "predictions-validation.parquet": _predictions_file(predictions),
    }
    kept = next(record for record in epochs if record["epoch"] == kept_epoch)
    info: dict[str, Any] = {
        "job": job.to_dict(),
        "parameters": parameters,
        "seconds": sum(epoch["seconds"] for epoch in epochs),
        "kept_epoch": kept_epoch,
        "metrics": {
            name: value for name, value in kept.items() if name.startswith(("val/", "train/"))
        },
    }
    if computation is not None:
        info["computation"] = asdict(computation)
    return JobRecord(store.put(job_key(job.id), files, info))


def save_test_predictions(store: Store, job_id: str, predictions: Predictions) -> None:
    """Store the predictions of a finished job on the test split, beside it."""
    files = {"predictions-test.parquet": _predictions_file(predictions)}
    store.put(_evaluation_key(job_key(job_id), "test"), files, {"job_id": job_id})


def save_judgement(store: Store, job_id: str, images: str, judgement: Judgement) -> None:
    """Store what a finished job says of `test` or a foreign set, by its key, beside it."""
    columns = {
        "prediction": _vectors(judgement.prediction),
        "epistemic": pa.array(judgement.epistemic.astype(np.float32)),
    }
    if judgement.energy is not None:
        columns["energy"] = pa.array(judgement.energy.astype(np.float32))
    files = {JUDGEMENT: _parquet(pa.table(columns))}
    store.put(_evaluation_key(job_key(job_id), _judged(images)), files, {"job_id": job_id})


def _judged(images: str) -> str:
    return f"judged-{images}"


def job_key(job_id: str) -> str:
    """The folder of a job in the store."""
    return posixpath.join("jobs", job_id)


def log_path(job_id: str) -> str:
    """Where the log file of a job lies in the store."""
    return posixpath.join("logs", f"{job_id}.log")


def last_epoch_path(job_id: str) -> str:
    """Where a job keeps the metrics of its last epoch while it runs, as JSON beside its log."""
    return posixpath.join("logs", f"{job_id}.json")


TEACHER_IMAGES = "teacher_images"
"""Beside the metrics of a job's last epoch: how many images teachers have answered for in it."""


def last_epoch(store: Store, job_id: str) -> dict[str, float]:
    """What a job keeps of its last epoch; nothing where it has none yet."""
    record = store.read_json(last_epoch_path(job_id))
    try:
        return {name: float(value) for name, value in record.items()}
    except (ValueError, TypeError):
        return {}


def _evaluation_key(key: str, split: str) -> str:
    return posixpath.join(key, "evaluations", split)


def _predictions_file(predictions: Predictions) -> bytes:
    columns = {
        "label": pa.array(predictions.labels),
        "log_probabilities": _vectors(predictions.log_probabilities),
    }
    return _parquet(pa.table(columns))


def _vectors(values: np.ndarray) -> pa.FixedSizeListArray:
    """A column of vectors, from (N, K)."""
    flat = pa.array(values.astype(np.float32).reshape(values.size))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _table(content: bytes) -> pa.Table:
    # Unlike `pq.read_table`, without pyarrow's data sets and Pandas, a second to import.
    with pq.ParquetFile(io.BytesIO(content)) as file:
        return file.read()


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content
