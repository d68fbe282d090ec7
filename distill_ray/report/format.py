"""How the report writes things: metrics, settings, durations, lists."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from distill_ray.metric import COSTS, METRICS, is_percent, title_of
from distill_ray.report.results import Value

_SPLITS = {"val": "validation", "test": "test", "train": "training"}


def objective_title(name: str) -> str:
    """`val/nll` as `validation NLL`, `cost/macs` as `multiply-adds`; other names as they are."""
    split, _, metric = name.partition("/")
    if split == "cost":
        return title_of(metric)
    return f"{_SPLITS[split]} {title_of(metric)}" if split in _SPLITS and metric else name


def axis_title(name: str) -> str:
    """An objective along an axis: `validation NLL`, `latency in ms`."""
    split, _, cost = name.partition("/")
    unit = COSTS[cost].unit if split == "cost" else ""
    return f"{objective_title(name)} in {unit}" if unit else objective_title(name)


def setting(value: Value) -> str:
    """A setting's value, numbers in four figures at most."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def metric_text(metric: str, value: float, *, sign: bool = False) -> str:
    """`value` of `metric` as people read it, without unit, with the metric's `decimals`."""
    percent = is_percent(metric)
    decimals = METRICS[metric].decimals if metric in METRICS else None
    if decimals is None:
        decimals = 1 if percent else 3
    return f"{100 * value if percent else value:{'+' if sign else ''}.{decimals}f}"


def parameter_count(parameters: int | None) -> str:
    """A number of weights in three figures: `77.9k`, `2.24M`; a dash where it is not known."""
    if parameters is None:
        return "-"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if parameters >= size:
            return f"{parameters / size:.3g}{unit}"
    return str(parameters)


def settings(params: Mapping[str, Value]) -> str:
    """`temperature 4.2, augmentation cutout`."""
    return ", ".join(f"{name} {setting(value)}" for name, value in params.items())


def listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def counted(number: int, noun: str) -> str:
    """`1 trial`, `3 trials`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """`4.1 s`, `2 min 5 s`, `3 h 20 min`."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def energy(joules: float) -> str:
    """`840 J`, `12.5 kJ`, `1.25 kWh`."""
    if joules < 1000:
        return f"{joules:.0f} J"
    return f"{joules / 1000:.3g} kJ" if joules < 3.6e5 else f"{joules / 3.6e6:.3g} kWh"


def cut(text: str, length: int) -> str:
    """`text`, shortened to `length` characters."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def file_name(name: str) -> str:
    """`name` as part of a file name: `val/nll` as `val-nll`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unnamed"
