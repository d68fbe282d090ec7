"""A penalty on heads that resemble their average, after Ferianc & Rodrigues 2022 (Hydra+)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor

Compare = Literal["rows", "layers"]
Bias = Literal["none", "joined", "separate"]

SMOOTHING = 1e-8
"""Keeps the cosine finite where a row is 0; part of the published definition, and visible in the
tenth digit of its values.
"""


def diversity(
    layers: Iterable[tuple[Tensor, Tensor | None]],
    *,
    compare: Compare = "rows",
    bias: Bias = "none",
) -> Tensor:
    """Sum over layers, heads and rows of (1 + cos(mean over heads, head)) / 2; smaller means more
    diverse.

    Args:
        layers: weight (M, out, ...) and bias (M, out) of each layer of M heads; a layer may have no
            bias.
        compare: the vectors of which the cosine is taken: the weights that lead to one output
            (`rows`, as the published code does) or all weights of a layer (`layers`, the formula of
            the paper).
        bias: left out (`none`), appended to the weights of its row (`joined`), or compared by
            itself (`separate`, the published code). A bias compared by itself is a vector of one
            number, whose cosine jumps from -1 to 1 at 0: its gradient is thousands of times that of
            everything else, which is why it is not the default.

    The number of terms, and so the scale, differs between the variants: a weight found for one does
    not carry over. The mean is not detached.
    """
    terms = [
        similarity(vectors)
        for weight, own_bias in layers
        for vectors in _vectors(weight, own_bias, compare, bias)
    ]
    return torch.stack(terms).sum()


def similarity(vectors: Tensor) -> Tensor:
    """Sum over heads and vectors of (1 + cosine to the mean over heads) / 2, for vectors (M, count,
    length).
    """
    mean = vectors.mean(0, keepdim=True)
    norms = (vectors.square().sum(-1) + SMOOTHING).sqrt()
    mean_norm = (mean.square().sum(-1) + SMOOTHING).sqrt()
    cosine = (vectors * mean).sum(-1) / (norms * mean_norm + SMOOTHING)
    return ((1 + cosine) / 2).sum()


def _vectors(
    weight: Tensor, own_bias: Tensor | None, compare: Compare, bias: Bias
) -> Iterator[Tensor]:
    rows = weight.flatten(2)
    if own_bias is not None and bias == "joined":
        rows = torch.cat([rows, own_bias.unsqueeze(-1)], -1)
    parts = [rows]
    if own_bias is not None and bias == "separate":
        parts.append(own_bias.unsqueeze(-1))
    for part in parts:
        yield part if compare == "rows" else part.flatten(1).unsqueeze(1)
