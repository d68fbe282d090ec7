"""The weights that torchvision and timm offer for their networks, downloaded when a study asks."""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path

from distill_ray.errors import RequestError, first_line
from distill_ray.models.download import download
from distill_ray.models.timm_names import PREFIX
from distill_ray.models.timm_preprocessing import configuration_of

_DIGEST = re.compile(r"-([0-9a-f]{8,})\.")
"""What torchvision and timm put into the names of their files: the beginning of the SHA-256."""


def pretrained_file(model: str) -> Path:
    """The file of the weights that its library offers for `model`: from the folder where torch hub
    or Hugging Face keeps such, else downloaded into it.

    Raises `RequestError` where there are none, or they cannot be downloaded.
    """
    library, _, architecture = model.partition("/")
    if library == "torchvision":
        import torchvision

        return _downloaded(torchvision.models.get_model_weights(architecture).DEFAULT.url)
    if not model.startswith(PREFIX):
        raise RequestError(
            f"weights pretrained: model {model} has none; torchvision's and timm's networks do"
        )
    configuration = configuration_of(architecture)
    if configuration.hf_hub_id:
        file = configuration.hf_hub_filename or "model.safetensors"
        return _from_hugging_face(configuration.hf_hub_id, file)
    if isinstance(configuration.url, str) and configuration.url:
        return _downloaded(configuration.url)
    raise RequestError(f"weights pretrained: timm offers none for {architecture}")


def _downloaded(url: str) -> Path:
    import torch

    name = posixpath.basename(url)
    file = Path(torch.hub.get_dir(), "checkpoints", name)
    if file.exists():
        return file
    digest = _DIGEST.search(name)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        download(url, file, digest[1] if digest else "")
    except (OSError, ValueError) as error:  # no network, and another digest
        raise RequestError(
            f"weights pretrained: {url} cannot be downloaded ({first_line(error)}); put it at "
            f"{file}, or name a file that is here"
        ) from None
    return file


def _from_hugging_face(repository: str, name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, name, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    attempts = logging.getLogger("huggingface_hub")
    level = attempts.level
    attempts.setLevel(logging.ERROR)  # it tells of each, and the last says it all
    try:
        return Path(hf_hub_download(repository, name))
    except Exception as error:  # of the network, of its client, and of the hub
        raise RequestError(
            f"weights pretrained: {name} of {repository} at Hugging Face cannot be downloaded "
            f"({first_line(error)}); name a file that is here"
        ) from None
    finally:
        attempts.setLevel(level)
