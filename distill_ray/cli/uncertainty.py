"""The command that measures the uncertainty of a study's networks."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import click

from distill_ray.cli import options

if TYPE_CHECKING:
    from distill_ray.stages.uncertainty import UncertaintyRow


@click.command(short_help="Measure predictive uncertainty.")
@options.study
@options.store
@options.search_storage
@click.option(
    "--foreign",
    metavar="SOURCE",
    multiple=True,
    help="An out-of-distribution data set, name or folder; may be repeated.",
)
@click.option(
    "--shifts",
    is_flag=True,
    help="Also measure on shifted, rotated and brightened test images, at five levels each.",
)
@click.option(
    "--resize", is_flag=True, help="Convert foreign images to the size and channels of the study's."
)
@click.option(
    "--json", "as_machine", is_flag=True, help="Print all measures as one JSON list, for programs."
)
@options.verbose(expose_value=False)
def uncertainty(
    study: str,
    overrides: tuple[str, ...],
    store: str,
    search_storage: str | None,
    foreign: tuple[str, ...],
    shifts: bool,
    resize: bool,
    as_machine: bool,
) -> None:
    """Measure predictive uncertainty, and how well it separates shifted or out-of-distribution
    images from the test split (AUROC).

    Total uncertainty is the entropy of a prediction; the part due to disagreement of members, heads
    or samples is epistemic, the rest aleatoric. An AUROC of 0.5 is chance, 1 is perfect separation.
    TV is the total-variation distance between the histograms of uncertainties of a student and of
    the ensemble.

    \b
    Examples:
      distill-ray uncertainty studies/quickstart.yaml --shifts
      distill-ray uncertainty my.yaml --foreign data/svhn
      distill-ray uncertainty studies/toy-spiral.yaml --foreign toy-spiral-grid
    """
    loaded = options.load(study, overrides)
    from distill_ray.stages.collect import load_results
    from distill_ray.stages.locations import Locations
    from distill_ray.stages.uncertainty import uncertainties

    results, data, opened = load_results(loaded, Locations(store, None, search_storage))
    rows = uncertainties(
        results.contenders, opened, data, foreign=foreign, shifts=shifts, resize=resize
    )
    if as_machine:
        click.echo(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
    elif not rows:
        click.echo(f"{results.name}: no results yet in {opened.shown}")
    else:
        click.echo(_as_text(rows))


_COLUMNS = {
    "accuracy": "accuracy %",
    "nll": "NLL",
    "ece": "ECE",
    "rmse": "RMSE",
    "total": "total",
    "aleatoric": "aleatoric",
    "epistemic": "epistemic",
    "auroc": "AUROC",
    "epistemic-auroc": "epist. AUROC",
    "total-tv": "TV",
    "epistemic-tv": "epist. TV",
}


def _as_text(rows: list[UncertaintyRow]) -> str:
    """One table for each set of images."""
    from distill_ray.escaping import for_terminal
    from distill_ray.report.text_table import PLUS_MINUS, text_table

    blocks = []
    for images in dict.fromkeys(row.on for row in rows):
        of_images = [row for row in rows if row.on == images]
        names = [name for name in _COLUMNS if any(name in row.cells for row in of_images)]
        lines = []
        for row in of_images:
            cells = [row.cells.get(name) for name in names]
            texts = [
                "-" if cell is None else cell.text(name, PLUS_MINUS)
                for name, cell in zip(names, cells, strict=True)
            ]
            lines.append([row.label, *texts])
        header = ["", *(_COLUMNS[name] for name in names)]
        blocks.append("\n".join([for_terminal(images), *text_table(header, lines, rule=False)]))
    legend = "Mean ± sample standard deviation over runs; shifts are the mean of their five levels."
    return "\n\n".join([*blocks, legend])
