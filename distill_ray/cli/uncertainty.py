"""The command that measures the uncertainty of a study's networks."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import click

from distill_ray.cli import options
from distill_ray.errors import RequestError

if TYPE_CHECKING:
    from distill_ray.data.foreign import Kind

LEGEND = "Mean ± sample standard deviation over runs; shifts are the mean of their levels."


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
    "--near",
    metavar="SOURCE",
    multiple=True,
    help="The same, of images much like those of the study: other classes of the same kind.",
)
@click.option(
    "--far",
    metavar="SOURCE",
    multiple=True,
    help="The same, of images unlike those of the study.",
)
@click.option(
    "--shifts",
    is_flag=True,
    help="Also measure on shifted, rotated and brightened test images, at five levels each.",
)
@click.option(
    "--corruptions",
    is_flag=True,
    help="Also measure under fifteen corruptions of the test images (noise, blur, weather, "
    "compression) at five severities each, and their mean; fourteen without photographs of frost, "
    "which `pip install --no-deps imagecorruptions-imaug` has.",
)
@click.option(
    "--shifted",
    metavar="SOURCE",
    multiple=True,
    help="Labelled test images under a shift: a data set, or a folder of .npy files, as of "
    "CIFAR-10-C.",
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
    near: tuple[str, ...],
    far: tuple[str, ...],
    shifts: bool,
    corruptions: bool,
    shifted: tuple[str, ...],
    resize: bool,
    as_machine: bool,
) -> None:
    """Measure predictive uncertainty, and how well it separates shifted or out-of-distribution
    images from the test split (AUROC).

    Total uncertainty is the entropy of a prediction; the part due to disagreement of members, heads
    or samples is epistemic, the rest aleatoric. An AUROC of 0.5 is chance, 1 is perfect separation;
    FPR95 is the share of foreign images taken for familiar when 95 % of the test split are. MSP
    goes by the probability of the most probable class, energy by the logits. --json has the areas
    under the precision-recall curves too.
    TV is the total-variation distance between the histograms of uncertainties of a student and of
    the ensemble. mCE is the mean corruption error over all corruptions, relative to that of the
    student from scratch, or of the ensemble where there is none.

    \b
    Examples:
      distill-ray uncertainty studies/quickstart.yaml --shifts
      distill-ray uncertainty my.yaml --corruptions
      distill-ray uncertainty my.yaml --near data/cifar100 --far data/svhn
      distill-ray uncertainty studies/toy-spiral.yaml --foreign toy-spiral-grid
    """
    loaded = options.load(study, overrides)
    from distill_ray.report.uncertainty import COLUMNS, as_text
    from distill_ray.stages.collect import load_results
    from distill_ray.stages.locations import Locations
    from distill_ray.stages.uncertainty import uncertainties

    sets: dict[str, Kind] = dict.fromkeys(foreign, "")
    sets |= dict.fromkeys(near, "near")
    sets |= dict.fromkeys(far, "far")
    if len(sets) < len((*foreign, *near, *far)):
        raise RequestError("a foreign data set is named twice; name each once")
    results, data, opened = load_results(loaded, Locations(store, None, search_storage))
    rows = uncertainties(
        results.contenders,
        opened,
        data,
        foreign=sets,
        shifts=shifts,
        corruptions=corruptions,
        shifted_from=shifted,
        resize=resize,
    )
    if not rows:
        raise RequestError(f"{results.name}: no results yet in {opened.shown}; run the study")
    if as_machine:
        click.echo(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
    else:
        click.echo(f"{as_text(rows, COLUMNS)}\n\n{LEGEND}")
