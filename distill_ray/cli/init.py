"""The command that writes a first study file."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from distill_ray.cli import options
from distill_ray.errors import RequestError

QUICKSTART = "quickstart"


def _seconds(context: click.Context, parameter: click.Parameter, text: str | None) -> float | None:
    """The seconds of a length of time with its unit."""
    if text is None:
        return None
    from distill_ray.study.parse_search import DURATION_FORM, seconds_of

    seconds = seconds_of(text)
    if seconds is None:
        raise click.BadParameter(f"found {text!r}; must be {DURATION_FORM}")
    return seconds


@click.command()
@click.argument("folder", metavar="[DATA]", required=False)
@click.option(
    "--teacher",
    "teachers",
    metavar="FILE",
    multiple=True,
    help="File of a trained teacher's weights, safetensors or a state dict; may be repeated.",
)
@click.option("--study", "name", metavar="NAME", help="Copy a study that comes with distill-ray.")
@click.option(
    "--latency-ms",
    type=click.FloatRange(0, min_open=True),
    metavar="MS",
    help="The most that a student may take for an image here: networks that do are searched.",
)
@click.option(
    "--budget",
    callback=_seconds,
    metavar="TIME",
    help="How long the study may take here, such as 90m or 4h: as many trials as fit.",
)
@click.option("--out", metavar="FILE", help="File to write.  [default: NAME.yaml]")
@options.verbose(expose_value=False)
def init(
    folder: str | None,
    teachers: tuple[str, ...],
    name: str | None,
    latency_ms: float | None,
    budget: float | None,
    out: str | None,
) -> None:
    """Write a first study file, with comments.

    With DATA, a folder or URI of images, sizes, classes, splits and teachers are filled in. The
    architecture of each teacher is recognised by its tensors, or left for you to fill in. With
    --latency-ms networks of several families are timed here, which takes a minute, and with
    --budget a plan tells how many trials fit. Without DATA it is the quickstart, or the study
    called NAME.

    \b
    Examples:
      distill-ray init
      distill-ray init photos --teacher resnet18.pt --teacher densenet.safetensors
      distill-ray init photos --teacher resnet18.pt --latency-ms 5 --budget 4h
      distill-ray init --study latent-be
    """
    if folder is not None and name is not None:
        raise click.UsageError("--study copies a whole study, so DATA cannot be given with it")
    if folder is None and teachers:
        raise click.UsageError("--teacher needs DATA, which the teachers are for")
    if folder is None and (latency_ms is not None or budget is not None):
        raise click.UsageError("--latency-ms and --budget need DATA, which networks are timed on")
    chosen = name or QUICKSTART
    if folder is not None:
        chosen = Path(folder.rstrip("/")).name or "study"
    target = Path(out or f"{Path(chosen).name}.yaml")
    _check_new(target)
    options.announce_loading()
    from distill_ray.planning.first_study import first_study, published_study

    if folder is None:
        texts = published_study(chosen, str(target))
    else:
        texts = {target: first_study(folder, teachers, str(target), latency_ms, budget)}
    for file in texts:
        _check_new(file)
    for file, text in texts.items():
        try:
            file.write_text(text, "utf-8")
        except OSError as error:
            raise RequestError(
                f"{file} cannot be written ({error.strerror}); choose another file with --out"
            ) from None
        click.echo(f"{file}: written")
    study = str(target)
    run = ["run", study] if folder is None else ["run", study, "--export", "student"]
    for words in (["validate", study], ["plan", study], run):
        click.echo(f"  {shlex.join(['distill-ray', *words])}")


def _check_new(file: Path) -> None:
    if file.exists():
        raise RequestError(f"{file} exists; choose another file with --out, or remove it")
