"""Trained weights from a file: read without running anything in it, and fitted to a network.

People bring state dicts in many shapes: nested in a checkpoint, with the prefixes that wrappers
leave, in half precision, with a classifier of another name. All of that is understood, and nothing
else: a tensor that is missing, left over or of another shape is refused, with the names that come
nearest.
"""

from __future__ import annotations

import difflib
import io
import logging
import warnings
from collections.abc import Mapping, Sequence

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from distill_ray.errors import RequestError, first_line
from distill_ray.escaping import for_terminal
from distill_ray.models.network import Network

logger = logging.getLogger(__name__)

NESTED = ("state_dict_ema", "model_ema", "state_dict", "model", "teacher", "net")
"""Where a checkpoint keeps the weights, the first that it has. An average over the last steps comes
before the weights themselves, as in timm's evaluation.
"""

PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "net.", "network.", "encoder.")
"""What wrappers put before every name: DataParallel, torch.compile, Lightning and the like."""

_SAVED = (b"PK", b"\x80")
"""How files of `torch.save` begin: zip archives, before torch 1.6 pickles."""

_LISTED = 8
"""So many names of each kind are listed in a message."""


def read_weights(content: bytes, name: str) -> dict[str, Tensor]:
    """The tensors of a weights file by name, on the CPU, floating ones in float32.

    Args:
        content: the file: safetensors, or what `torch.save` wrote of a state dict or of a
            checkpoint that has one.
        name: the file's name, for messages.

    Raises `RequestError` for a file that is truncated, of another kind, holds a number that is not
    finite, or could run code when read: only tensors and plain containers are unpickled.
    """
    if len(content) < 9:
        raise RequestError(f"weights {name}: truncated, it has {len(content)} bytes")
    state = _safetensors(content, name) if _is_safetensors(content) else _unpickled(content, name)
    tensors = {}
    for key, value in state.items():
        if not isinstance(value, Tensor):
            continue
        if value.is_floating_point():
            value = value.float()
            if not value.isfinite().all():
                raise RequestError(f"weights {name}: {key} has values that are not finite")
        tensors[key] = value
    if not tensors:
        raise RequestError(f"weights {name}: no tensors in it; save model.state_dict()")
    return tensors


def fit_weights(
    network: Network,
    state: Mapping[str, Tensor],
    name: str,
    *,
    outputs: Sequence[int] | None = None,
    new_classifier: bool = False,
) -> None:
    """Give `network` the weights `state`, as `read_weights` reads them.

    Args:
        network: a plain network of the catalogue; it keeps its preprocessing unless `state` has
            the mean and standard deviation that networks trained here carry.
        state: tensors by name: ours, or those of the library that the architecture is from.
        name: the file's name, for messages.
        outputs: which of the file's outputs the network's are, in its order; None: all of them, in
            the same order.
        new_classifier: whether a classifier for another number of classes is left as it was drawn.

    Raises `RequestError` listing everything that is missing, left over or of another shape.
    """
    expected = network.state_dict()
    renamed = _best_match(state, network, expected)
    _adopt_classifier(renamed, expected)
    if outputs is not None and "classifier.weight" not in expected:
        raise RequestError(
            f"weights {name}: `classes` puts the rows of the last linear layer in order, and model "
            f"{network.name} does not end in one; bring the classes of the data in its order"
        )
    if outputs is not None:
        for key in ("classifier.weight", "classifier.bias"):
            if key in renamed and max(outputs, default=-1) < len(renamed[key]):
                renamed[key] = renamed[key][list(outputs)]
    weight = renamed.get("classifier.weight")
    if new_classifier and weight is not None and len(weight) != len(network.classifier.weight):
        logger.info(
            "weights %s: a new classifier for %d classes replaces that for %d",
            name,
            len(network.classifier.weight),
            len(weight),
        )
        renamed |= {key: expected[key] for key in expected if key.startswith("classifier.")}
    for key, tensor in expected.items():
        # Older checkpoints do not count batches, and only ours carry their preprocessing.
        if key.endswith("num_batches_tracked") or key.startswith("normalise."):
            renamed.setdefault(key, tensor)
    problems = _problems(renamed, expected)
    if problems:
        raise RequestError(
            f"weights {name} do not fit model {network.name}:\n  " + "\n  ".join(problems)
        )
    network.load_state_dict(renamed)


def outputs_of(classes: Sequence[str], data: Sequence[str], name: str) -> list[int] | None:
    """Which outputs of the weights `name` stand for the classes of the `data`, in their order.

    `classes` has the class of each output; empty where it is the data's order. Raises
    `RequestError` when there is no output for a class.
    """
    if not classes:
        return None
    missing = [label for label in data if label not in classes]
    if missing:
        raise RequestError(
            f"weights {name}: `classes` names no output for {_listed(missing[:_LISTED])}; the "
            f"data has the classes {_listed(data[:20])}"
        )
    return [classes.index(label) for label in data]


def _listed(classes: Sequence[str]) -> str:
    return ", ".join(map(for_terminal, classes))


def _is_safetensors(content: bytes) -> bool:
    # A length in eight bytes, then a JSON object. Zip archives and pickles begin otherwise.
    return content[8:9] == b"{"


def _safetensors(content: bytes, name: str) -> Mapping[str, object]:
    try:
        return load_safetensors(content)
    except SafetensorError as error:
        raise RequestError(f"weights {name}: not readable, perhaps truncated ({error})") from None


def _unpickled(content: bytes, name: str) -> Mapping[str, object]:
    """The state dict in what `torch.save` wrote, however deep a checkpoint keeps it."""
    if not content.startswith(_SAVED):
        raise RequestError(
            f"weights {name}: neither safetensors nor what torch.save writes; save "
            "model.state_dict() in one of the two"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is then refused, or understood
            nested = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the file makes the reader run into, it is not readable
        reason = first_line(error)
        if any(sign in str(error) for sign in ("Unsupported", "GLOBAL", "weights_only")):
            raise RequestError(
                f"weights {name}: reading it could run code, so it is refused. Where you trust "
                "it, load it once and save the tensors alone: "
                "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
            ) from None
        raise RequestError(f"weights {name}: not readable, perhaps truncated ({reason})") from None
    while isinstance(nested, Mapping):
        inner = next((key for key in NESTED if isinstance(nested.get(key), Mapping)), None)
        if inner is None:
            return nested
        logger.info("weights %s: taken from %r in the checkpoint", name, inner)
        nested = nested[inner]
    raise RequestError(
        f"weights {name}: holds {type(nested).__name__}, not named tensors; save model.state_dict()"
    )


def _best_match(
    state: Mapping[str, Tensor], network: Network, expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """`state` under the names of `expected`: of all ways to strip prefixes, with the names of this
    package or of the library, the one that meets most of them.
    """
    best: dict[str, Tensor] = dict(state)
    score = -1
    for stripped in _strippings(state):
        for named in (stripped, network.from_library(stripped)):
            met = sum(
                key in expected and expected[key].shape == t.shape for key, t in named.items()
            )
            if met > score:
                best, score = named, met
    return best


def _strippings(state: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """`state`, and `state` without the prefixes that all of its names have, one after the other."""
    stages = [dict(state)]
    while True:
        last = stages[-1]
        shared = next(
            (prefix for prefix in PREFIXES if all(key.startswith(prefix) for key in last)), None
        )
        if shared is None:
            break
        stages.append({key.removeprefix(shared): tensor for key, tensor in last.items()})
    # A backbone with a prefix beside a classifier without one.
    for prefix in PREFIXES:
        if any(key.startswith(prefix) for key in stages[-1]):
            stages.append({key.removeprefix(prefix): tensor for key, tensor in stages[-1].items()})
    return stages


def _adopt_classifier(renamed: dict[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Take the one layer that is left over for the classifier where that is missing and it could
    be one, whatever it is called.
    """
    if "classifier.weight" in renamed or "classifier.weight" not in expected:
        return
    left = [key for key in renamed if key not in expected]
    stems = {key.rpartition(".")[0] for key in left}
    if len(stems) != 1 or not left:
        return
    (stem,) = stems
    weight = renamed.get(f"{stem}.weight")
    if weight is None or weight.shape[1:] != expected["classifier.weight"].shape[1:]:
        return
    for part in ("weight", "bias"):
        if f"{stem}.{part}" in renamed:
            renamed[f"classifier.{part}"] = renamed.pop(f"{stem}.{part}")


def _problems(renamed: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """What keeps the weights from fitting, a line each."""
    missing = [key for key in expected if key not in renamed]
    unexpected = [key for key in renamed if key not in expected]
    lines = []
    for key in missing[:_LISTED]:
        near = difflib.get_close_matches(key, unexpected, n=1)
        lines.append(f"missing {key}" + (f" (the file has {near[0]})" if near else ""))
    if len(missing) > _LISTED:
        lines.append(f"and {len(missing) - _LISTED} more are missing")
    for key in unexpected[:_LISTED]:
        lines.append(f"unexpected {key} {tuple(renamed[key].shape)}")
    if len(unexpected) > _LISTED:
        lines.append(f"and {len(unexpected) - _LISTED} more are unexpected")
    shaped = [
        key for key in expected if key in renamed and renamed[key].shape != expected[key].shape
    ]
    for key in shaped[:_LISTED]:
        lines.append(
            f"{key} has shape {tuple(renamed[key].shape)}, the model {tuple(expected[key].shape)}"
        )
    if "classifier.weight" in shaped:
        has, wanted = len(renamed["classifier.weight"]), len(expected["classifier.weight"])
        remedy = "name the file's classes in `classes`"
        if has < wanted:
            remedy = "with `epochs` it is fine-tuned, with a new classifier"
        lines.append(f"the file is for {has} classes and the data has {wanted}: {remedy}")
    if missing and unexpected:
        lines.append(
            "of which architecture of the catalogue it is, if of one, tells "
            "`distill-ray init DATA --teacher FILE`"
        )
    return lines
