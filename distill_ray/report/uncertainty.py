"""Uncertainty on sets of images: the test split, shifted images, and foreign ones with how well
each doubt tells these from the test split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from distill_ray.data.foreign import TEST, Kind
from distill_ray.escaping import for_markdown, for_terminal
from distill_ray.metrics.judgement import separations
from distill_ray.report.results import StudyResults
from distill_ray.report.table import Cell, markdown_table
from distill_ray.report.text_table import PLUS_MINUS, text_table


@dataclass(frozen=True)
class UncertaintyRow:
    """One contender on one set of images: mean and spread of every measure over its runs.

    - accuracy, nll, ece and the other scores, where images have labels;
    - total, aleatoric, epistemic: means over the images. In nats for classification, where the
      first is the entropy of the prediction; standard deviations for regression. A network without
      members, heads or samples has no epistemic uncertainty;
    - auroc, aupr-foreign, aupr-test, fpr95: how well the total uncertainty separates these images
      from the test split, see `metrics.uncertainty.separation`; with msp-, energy- or epistemic-
      before it, how well another doubt does, see `metrics.judgement.Judgement.doubts`;
    - total-tv, epistemic-tv: total-variation distance, 0 to 1, of the histograms over images from
      those of the ensemble;
    - mce-scratch, or mce-ensemble without that baseline, on all corruptions together: the mean
      corruption error, relative to it.

    With several levels of a shift, a run's value is the mean over them. `over` is how many
    corruptions a mean over all of them is over: fifteen, or fourteen without frost.
    """

    contender: str
    label: str
    on: str
    cells: Mapping[str, Cell]
    kind: Kind = ""
    over: int | None = None

    @property
    def title(self) -> str:
        """What the images are."""
        return f"{self.on}, the mean of {self.over}" if self.over else _title(self.on, self.kind)


def _title(on: str, kind: Kind) -> str:
    return f"{on} ({kind})" if kind else on


COLUMNS = {
    "accuracy": "accuracy %",
    "nll": "NLL",
    "ece": "ECE",
    "mce-scratch": "mCE / scratch",
    "mce-ensemble": "mCE / ensemble",
    "rmse": "RMSE",
    "total": "total",
    "aleatoric": "aleatoric",
    "epistemic": "epistemic",
    "auroc": "AUROC",
    "fpr95": "FPR95",
    "msp-auroc": "MSP AUROC",
    "energy-auroc": "energy AUROC",
    "epistemic-auroc": "epist. AUROC",
    "total-tv": "TV",
    "epistemic-tv": "epist. TV",
}
"""The measures of `distill-ray uncertainty`, with their titles."""

SEPARATION = {
    "auroc": "AUROC",
    "msp-auroc": "by MSP",
    "energy-auroc": "by energy",
    "epistemic-auroc": "by mutual inf.",
    "aupr-foreign": "AUPR foreign",
    "aupr-test": "AUPR test",
    "fpr95": "FPR95",
}
"""The measures of confirmed networks, with their titles; AUROC and those without a "by" go by the
entropy of the prediction, or its standard deviation for regression.
"""

LEGEND = (
    "How well uncertainty tells foreign images from the test split: AUROC by the entropy of the "
    "prediction, by the probability of the most probable class (MSP), by the energy of the logits, "
    "and by the mutual information of members or heads; 0.5 is chance, 1 is perfect. AUPR, with "
    "foreign or test images as those to find, and FPR95, the share of foreign images accepted "
    "where 95 % of the test split are, go by entropy."
)


@dataclass(frozen=True)
class ForeignRow:
    """How well one contender tells one foreign set from the test split, run by run: the measures of
    `metrics.judgement.separations`.
    """

    contender: str
    label: str
    on: str
    kind: Kind
    runs: tuple[dict[str, float], ...]

    @property
    def title(self) -> str:
        """What the images are."""
        return _title(self.on, self.kind)

    @cached_property
    def cells(self) -> dict[str, Cell]:
        """Mean and spread of every measure that all runs have."""
        names = [name for name in self.runs[0] if all(name in run for run in self.runs)]
        return {name: Cell.of(run[name] for run in self.runs) for name in names}


def foreign_rows(results: StudyResults) -> list[ForeignRow]:
    """A row for each foreign set and each contender that has judged it, set by set."""
    return [
        ForeignRow(contender.name, contender.label, name, kind, runs)
        for name, kind in results.foreign.items()
        for contender in results.contenders
        if (runs := tuple(_runs(contender.judged, name)))
    ]


def _runs(judged: Mapping[str, Sequence[Any]], name: str) -> list[dict[str, float]]:
    if TEST not in judged or name not in judged:
        return []
    return [
        separations(familiar, foreign)
        for familiar, foreign in zip(judged[TEST], judged[name], strict=True)
    ]


@dataclass(frozen=True)
class SetTable:
    """One set of images as a table of texts, a line for each contender."""

    title: str
    contenders: tuple[str, ...]
    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


def tables(
    rows: Sequence[UncertaintyRow | ForeignRow],
    titles: Mapping[str, str],
    plus_minus: str = " ± ",
) -> list[SetTable]:
    """A table for each set of images, with the measures of `titles` that it has."""
    tables_of_kinds = []
    for images in dict.fromkeys(row.on for row in rows):
        of_images = [row for row in rows if row.on == images]
        names = [name for name in titles if any(name in row.cells for row in of_images)]
        lines = []
        for row in of_images:
            cells = [(name, row.cells.get(name)) for name in names]
            texts = ["-" if cell is None else cell.text(name, plus_minus) for name, cell in cells]
            lines.append((row.label, *texts))
        tables_of_kinds.append(
            SetTable(
                of_images[0].title,
                tuple(row.contender for row in of_images),
                ("", *(titles[name] for name in names)),
                tuple(lines),
            )
        )
    return tables_of_kinds


def as_text(rows: Sequence[UncertaintyRow | ForeignRow], titles: Mapping[str, str]) -> str:
    """The tables as plain text."""
    return "\n\n".join(
        "\n".join([for_terminal(table.title), *text_table(table.header, table.lines, rule=False)])
        for table in tables(rows, titles, PLUS_MINUS)
    )


def foreign_as_markdown(rows: Sequence[ForeignRow]) -> str:
    """The tables of foreign sets in Markdown; empty without rows."""
    if not rows:
        return ""
    parts = ["## Foreign images"]
    for table in tables(rows, SEPARATION):
        parts += [f"**{for_markdown(table.title)}**", markdown_table(table.header, *table.lines)]
    return "\n\n".join([*parts, for_markdown(LEGEND)])


def foreign_as_json(rows: Sequence[ForeignRow]) -> list[dict[str, Any]]:
    """Every measure as mean, std and n, a value for each set and contender."""
    return [
        {
            "on": row.on,
            "kind": row.kind,
            "contender": row.contender,
            "metrics": {name: asdict(cell) for name, cell in row.cells.items()},
        }
        for row in rows
    ]
