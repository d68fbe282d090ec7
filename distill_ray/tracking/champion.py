"""The best student as an MLflow model: raw images in, class probabilities out, in the registry
under the study's name.

A model folder holds the weights as safetensors, one JSON file that says what they are, and a copy
of this package, from which `champion_model` builds the network again; there is no pickle in it, and
loading it takes torch but neither the store nor an installed distill_ray. The other way that
MLflow offers, its PyTorch flavour with an exported graph (`pt2`), gives the same probabilities; it
was tried and left, because exporting even a WRN-10-1 takes 7 s where this takes 1 s, and the graph
is bound to the release of torch that wrote it.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill_ray.extensions import extensions_for_inference, shapes_network
from distill_ray.job import Job, Recipe
from distill_ray.tracking.environment import prepare
from distill_ray.tracking.preprocessing import ImagePreparation

if TYPE_CHECKING:
    import numpy as np
    from mlflow import MlflowClient

ALIAS = "champion"
WEIGHTS, DESCRIPTION = "weights.safetensors", "champion.json"
FORMAT = 2
"""Raised when a field of `champion.json` changes its meaning."""
AUTO = "auto"
"""The device of a model that is loaded without naming one: a GPU if there is one."""
REQUIRED = ("torch", "torchvision", "numpy", "safetensors", "mlflow")
"""What a process needs to load the model. Their versions here are written beside it."""


@dataclass(frozen=True, eq=False)
class StudentModel:
    """A trained student, ready to be exported.

    `weights` are those of its deployed network as safetensors; `temperature` divides the logits
    before the softmax, 1 leaves them as they are; `thresholds`, by conformal score, give sets of
    its probabilities that hold the right class with probability `coverage`, as
    `metrics.conformal.prediction_sets` makes them (none where it is not calibrated); `examples` are
    a few images (N, H, W, C), of the shape that the network takes: uint8, or float32 where inputs
    are real numbers.
    """

    job: Job
    weights: bytes
    class_names: tuple[str, ...]
    examples: np.ndarray
    temperature: float = 1.0
    description: str = ""
    coverage: float = 0.9
    thresholds: Mapping[str, float] = field(default_factory=dict)

    @property
    def conformal(self) -> dict[str, Any]:
        """The thresholds as JSON values; null where the validation split is too small for one."""
        finite = {
            name: value if math.isfinite(value) else None for name, value in self.thresholds.items()
        }
        return {"coverage": self.coverage, "thresholds": finite}

    @property
    def preprocessing(self) -> ImagePreparation:
        """What its inputs must go through before, as the images did that it was trained on."""
        height, width, channels = self.examples.shape[1:]
        return ImagePreparation(
            height,
            width,
            channels,
            fit=self.job.data.size is not None,
            real_valued=self.examples.dtype != "uint8",
            resize=self.job.data.resize,
        )


def save_champion(champion: StudentModel, folder: Path, **about: Any) -> None:
    """Write an MLflow model into the empty or missing `folder`. `about` goes into MLflow's own
    description of the model.
    """
    prepare()
    import mlflow.pyfunc
    import numpy as np
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    required = [*REQUIRED]
    if champion.job.recipe.model.startswith("timm/"):
        required.append("timm")
    _, *shape = champion.examples.shape
    inputs = Schema([TensorSpec(champion.examples.dtype, (-1, *shape))])
    outputs = Schema([TensorSpec(np.dtype(np.float32), (-1, len(champion.class_names)))])
    with tempfile.TemporaryDirectory() as staging:
        data = Path(staging, "student")
        write_student(champion, data)
        mlflow.pyfunc.save_model(
            folder,
            loader_module="distill_ray.tracking.champion_model",
            data_path=str(data),
            code_paths=[str(path) for path in _code(champion.job.recipe, Path(staging))],
            signature=ModelSignature(inputs, outputs),
            input_example=champion.examples,
            pip_requirements=[f"{name}=={version(name)}" for name in required],
            # Only what is named here can be replaced when the model is loaded
            model_config={"device": AUTO},
            metadata={
                "job_id": champion.job.id,
                "class_names": list(champion.class_names),
                "preprocessing": champion.preprocessing.to_dict(),
                "conformal": champion.conformal,
            },
            mlflow_model=Model(**about),
        )


def write_student(champion: StudentModel, folder: Path) -> None:
    """Write `champion.json` and `weights.safetensors`, from which `champion_model.load_student`
    builds the network again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(champion.weights)
    write_description(champion, folder, WEIGHTS)


def write_description(champion: StudentModel, folder: Path, file: str) -> None:
    """Write `champion.json`, which says what the model in `file` is, takes and returns.

    The network is described by what inference needs, so that it can be built where the
    augmentation that it was trained with is unknown; the whole job is there for its provenance.
    """
    job = champion.job
    method = job.recipe.method
    preprocessing = job.recipe.prepared(champion.examples.shape[-1])
    description = {
        "format": FORMAT,
        "network": {
            "model": job.recipe.model,
            "method": method.to_dict() if shapes_network(method) else None,
            "seed": job.seed,
            "extensions": [
                extension.to_dict() for extension in extensions_for_inference(job.recipe)
            ],
            **({} if preprocessing is None else {"preprocessing": preprocessing.to_dict()}),
        },
        "image_shape": list(champion.examples.shape[1:]),
        "dtype": champion.examples.dtype.name,
        "preprocessing": champion.preprocessing.to_dict(),
        "class_names": list(champion.class_names),
        "temperature": champion.temperature,
        "conformal": champion.conformal,
        "file": file,
        "sha256": hashlib.sha256((folder / file).read_bytes()).hexdigest(),
        "job_id": job.id,
        "job": job.to_dict(),
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1), encoding="utf-8")


def _code(recipe: Recipe, staging: Path) -> list[Path]:
    """Copies of this package and of the extensions that the network needs. By hand, because MLflow
    would take compiled files and whatever else lies in the folder along.
    """
    sources = [Path(__file__).parents[1]]
    copies: list[str | Path] = []
    for extension in extensions_for_inference(recipe):
        if (file := extension.module_file) is None:
            sources.append(extension.code())
        else:
            copies.append(staging / f"{extension.top_module}.py")
            Path(copies[-1]).write_text(file.text, encoding="utf-8")
    for source in dict.fromkeys(sources):
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", ".*")
            copies.append(shutil.copytree(source, staging / source.name, ignore=ignored))
        else:
            copies.append(shutil.copy(source, staging / source.name))
    return [Path(copy) for copy in copies]


def register_champion(
    client: MlflowClient, study_name: str, experiment_id: str, run_id: str, champion: StudentModel
) -> None:
    """Log the model as an output of run `run_id`, and give its version in the registry the alias
    `champion`.

    A job that has a version already gets no second one, only the alias.
    """
    number = _version(client, study_name, champion) or _new_version(
        client, study_name, experiment_id, run_id, champion
    )
    client.set_registered_model_alias(study_name, ALIAS, number)


def _version(client: MlflowClient, study_name: str, champion: StudentModel) -> str | None:
    versions = client.search_model_versions(f"name = '{study_name}'")
    return next(
        (str(one.version) for one in versions if one.tags.get("job_id") == champion.job.id), None
    )


def _new_version(
    client: MlflowClient, study_name: str, experiment_id: str, run_id: str, champion: StudentModel
) -> str:
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException

    recipe = champion.job.recipe
    tags = {
        "job_id": champion.job.id,
        "study": study_name,
        "method": recipe.method.name,
        "model": recipe.model,
    }
    params = {name: str(value) for name, value in recipe.params().items()}
    model = client.create_logged_model(experiment_id, ALIAS, run_id, tags, params, "classifier")
    try:
        with tempfile.TemporaryDirectory() as staging:
            folder = Path(staging, "model")
            save_champion(
                champion,
                folder,
                artifact_path=model.artifact_location,
                run_id=run_id,
                model_id=model.model_id,
            )
            client.log_model_artifacts(model.model_id, str(folder))
    except BaseException:
        client.finalize_logged_model(model.model_id, "FAILED")
        raise
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    with suppress(MlflowException):
        client.create_registered_model(
            study_name, {"study": study_name}, "Students of this study, by `distill-ray`."
        )
    # A database, unlike a server, would look `models:/...` up wherever this process has set
    # MLflow's global tracking URI.
    source = model.model_uri if client.tracking_uri.startswith("http") else model.artifact_location
    made = client.create_model_version(
        study_name,
        source,
        run_id,
        tags,
        description=champion.description,
        await_creation_for=0,
        model_id=model.model_id,
    )
    number = str(made.version)
    client.set_logged_model_tags(
        model.model_id,
        {"mlflow.modelVersions": json.dumps([{"name": study_name, "version": number}])},
    )
    return number
