"""Commands around the model that a study leaves: export, predict."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from distill_ray.cli import options
from distill_ray.errors import RequestError
from distill_ray.escaping import for_terminal
from distill_ray.export import FORMATS

if TYPE_CHECKING:
    from distill_ray.stages.locations import Locations
    from distill_ray.study import StudyDefinition


@click.command()
@options.study
@options.store
@options.search_storage
@click.option(
    "--format",
    type=click.Choice(FORMATS),
    default="safetensors",
    show_default=True,
    help="Format of the model.",
)
@click.option(
    "--out",
    metavar="FOLDER",
    required=True,
    type=click.Path(path_type=Path),
    help="New folder for the model.",
)
@click.option(
    "--calibrated/--uncalibrated",
    default=True,
    show_default=True,
    help="Include the temperature that calibrates the model's probabilities.",
)
@click.option(
    "--license",
    default="unknown",
    show_default=True,
    help="Licence to name in the model card, such as mit.",
)
@click.option(
    "--most-lost",
    metavar="POINTS",
    type=click.FloatRange(0, 100),
    help="Points of accuracy on the test split that onnx-int8 may cost; beyond, nothing is "
    "written. Without it the change is only told.",
)
@options.verbose(expose_value=False)
def export(
    study: str,
    overrides: tuple[str, ...],
    store: str,
    search_storage: str | None,
    format: str,
    out: Path,
    calibrated: bool,
    license: str,
    most_lost: float | None,
) -> None:
    """Write the best student into a folder, with a model card.

    Whatever the format, the model takes uint8 images (N, H, W, C) and returns probabilities:
    scaling, normalisation and temperature are included. How an image of another size must be
    cropped and resized first, README.md and champion.json say. Before the folder is made, the model
    is loaded again and must return the same probabilities as the trained student on images of the
    test split.

    \b
    Examples:
      distill-ray export studies/quickstart.yaml --out champion
      distill-ray export studies/quickstart.yaml --format onnx --license mit --out champion-onnx
    """
    loaded = options.load(study, overrides)
    if most_lost is not None and format != "onnx-int8":
        raise RequestError(f"--most-lost is for --format onnx-int8, and the format is {format}")
    if format in ("onnx", "onnx-int8"):
        from distill_ray.export.load import check_installed

        check_installed("onnx", "onnxscript", "onnxruntime")
    from distill_ray.stages.locations import Locations

    export_student(
        loaded,
        Locations(store, None, search_storage),
        out,
        format=format,
        calibrated=calibrated,
        license=license,
        most_lost=most_lost,
    )


def export_student(
    study: StudyDefinition,
    locations: Locations,
    out: Path,
    *,
    format: str = "safetensors",
    calibrated: bool = True,
    license: str = "unknown",
    most_lost: float | None = None,
) -> None:
    """Write the best student of a study into the new folder `out`, and print what was checked."""
    from distill_ray.export import export_champion
    from distill_ray.stages.collect import load_results

    results, data, store = load_results(study, locations)
    exported = export_champion(
        results,
        store,
        data,
        out,
        format=format,
        calibrated=calibrated,
        license=license,
        most_lost=most_lost,
    )
    kind = "calibrated" if calibrated else "uncalibrated"
    click.echo(f"{for_terminal(str(out))}: {format}, {kind}; README.md describes it")
    click.echo(
        f"checked: on {exported.images} test images no probability differs by more than "
        f"{exported.difference:.1g} from the trained student's"
    )
    for change in exported.changes:
        unit = f" {change.unit}" if change.unit else ""
        before, after = f"{change.before:.4g}{unit}", f"{change.after:.4g}{unit}"
        click.echo(f"int8:    {change.name} {after}, in float32 {before}")
    click.echo(f"try it:  distill-ray predict {shlex.quote(for_terminal(str(out)))} IMAGE...")


@click.command()
@click.argument("model", metavar="MODEL")
@click.argument(
    "images", metavar="IMAGES...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--resize",
    is_flag=True,
    help="Crop and resize images that do not have the model's size, instead of rejecting them. "
    "Always done by models whose training images were.",
)
@click.option(
    "--top",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Number of classes to show per image.",
)
@click.option(
    "--json",
    "as_machine",
    is_flag=True,
    help="Print all classes of all images as one JSON list, for programs.",
)
@options.extension
@options.store
@options.tracking
@options.verbose(expose_value=False)
def predict(
    model: str,
    images: tuple[Path, ...],
    resize: bool,
    top: int,
    as_machine: bool,
    store: str,
    tracking_uri: str | None,
) -> None:
    """Classify image files.

    Prints the most likely classes of each, with their probabilities. MODEL is a folder that
    `distill-ray export` or MLflow wrote, or models:/STUDY@champion in the MLflow of the store.

    \b
    Examples:
      distill-ray predict champion cat.png dog.png
      distill-ray predict models:/quickstart@champion digit.png --resize
    """
    options.announce_loading()
    from distill_ray.export import open_model

    uri = None
    if model.startswith("models:/"):
        from distill_ray.stages.locations import Locations

        uri = Locations(store, tracking_uri).recorded_uri()
    opened = open_model(model, tracking_uri=uri)
    if opened.dtype != "uint8":
        raise RequestError(
            f"{for_terminal(model)} takes real numbers, not images; call it from Python: "
            "open_model(folder).predict(array)"
        )
    pixels = [opened.read_image(path, resize=resize or None) for path in images]
    import numpy as np

    probabilities = opened.predict(np.stack(pixels))
    if as_machine:
        listed = [
            {"image": str(path), "probabilities": dict(zip(opened.class_names, row, strict=True))}
            for path, row in zip(images, probabilities.tolist(), strict=True)
        ]
        click.echo(json.dumps(listed, indent=1))
        return
    names = [for_terminal(str(path)) for path in images]
    width = max(map(len, names))
    for name, row in zip(names, probabilities, strict=True):
        best = np.argsort(-row, kind="stable")[:top]
        classes = [
            f"{for_terminal(opened.class_names[index])} {100 * row[index]:.1f} %" for index in best
        ]
        click.echo(f"{name:<{width}}  {'  '.join(classes)}")
