"""What MLflow imports to load a model that `champion.save_champion` wrote."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from distill_ray.errors import RequestError, first_line
from distill_ray.escaping import for_terminal
from distill_ray.extensions import require
from distill_ray.methods import METHODS
from distill_ray.models import build_model
from distill_ray.models.preprocessing import Preprocessing
from distill_ray.tracking.champion import AUTO
from distill_ray.tracking.description import Description, read_description

IMAGES_PER_BATCH = 256


class ChampionModel:
    """A trained student behind MLflow's interface."""

    def __init__(self, network: nn.Module, temperature: float, device: torch.device) -> None:
        self.network = network.to(device).eval()
        self.temperature = temperature
        self.device = device

    @torch.inference_mode()
    def predict(self, images: np.ndarray) -> np.ndarray:
        """Class probabilities, float32 (N, K), of images (N, H, W, C): uint8, or float32 where
        inputs are real numbers.

        They are those of float32 arithmetic on every device: a GPU would by itself round what it
        convolves to ten bits (TF32).
        """
        batches = []
        for start in range(0, len(images), IMAGES_PER_BATCH):
            # A copy, since torch complains of arrays that cannot be written to
            pixels = np.array(images[start : start + IMAGES_PER_BATCH])
            batch = torch.from_numpy(pixels).to(self.device)
            with _float32():
                logits = self.network(scaled(batch))
            batches.append(torch.softmax(logits.float() / self.temperature, dim=1).cpu().numpy())
        return np.concatenate(batches)


@contextmanager
def _float32() -> Iterator[None]:
    """Convolutions and products in all digits of float32, in a process that may want others."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def scaled(images: Tensor) -> Tensor:
    """Images (N, H, W, C) as networks take them, float32 (N, C, H, W): pixels in [0, 1], real
    numbers as they are.
    """
    images = images.permute(0, 3, 1, 2)
    return images if images.is_floating_point() else images.float() / 255


def _load_pyfunc(data_path: str, model_config: dict[str, Any] | None = None) -> ChampionModel:
    """Called by `mlflow.pyfunc.load_model`; `model_config={"device": "cpu"}` chooses the device."""
    # The code of the extensions lies in the model, where MLflow has put it on `sys.path`
    return load_student(Path(data_path), (model_config or {}).get("device"), load_extensions=True)


def load_student(
    folder: Path, device: str | None = None, *, load_extensions: bool = False
) -> ChampionModel:
    """The student that `champion.write_student` wrote; without a `device`, or with `auto`, on a GPU
    if there is one.

    Raises `RequestError` when the files do not belong together, or when the network needs an
    extension that is neither installed nor, with `load_extensions`, importable.
    """
    description = read_description(folder)
    location = for_terminal(str(folder))
    try:
        for extension in description.network["extensions"]:
            require(extension, load=load_extensions)
        network = _network(description)
        network.load_state_dict(load_file(folder / description.file))
        target = torch.device(_device(device))
        return ChampionModel(network, description.temperature, target)
    except RequestError as error:
        raise RequestError(f"{location}: {error}") from None
    except (ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        reason = for_terminal(first_line(error))
        raise RequestError(
            f"{location}: this model cannot be loaded ({reason}); export it again"
        ) from None


def _network(description: Description) -> nn.Module:
    height, width, channels = description.image_shape
    # Mean and standard deviation of the images are among the weights
    prepared = description.network.get("preprocessing")
    plain = build_model(
        description.network["model"],
        num_classes=len(description.class_names),
        image_shape=(channels, height, width),
        seed=description.network["seed"],
        preprocessing=prepared and Preprocessing.from_dict(prepared),
    )
    settings = description.network["method"]
    if settings is None:
        return plain
    fields = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in settings.items()
        if name != "name"
    }
    return METHODS[settings["name"]](**fields).deployed_like(plain)


def _device(device: str | None) -> str:
    if device not in (None, AUTO):
        return str(device)
    return "cuda" if torch.cuda.is_available() else "cpu"
