"""The command that measures: bench."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from distill_ray.cli import options

if TYPE_CHECKING:
    from distill_ray.planning.bench import Bench


@click.command()
@options.study
@options.store
@click.option(
    "--json", "as_machine", is_flag=True, help="Print everything as one JSON object, for programs."
)
@click.option(
    "--name",
    metavar="NAME",
    help="Keep it by this name, for `plan --on NAME` on other machines.",
)
@options.verbose(expose_value=False)
def bench(
    study: str, overrides: tuple[str, ...], store: str, as_machine: bool, name: str | None
) -> None:
    """Measure what training a student costs on this machine.

    Times a few steps each, in turn, of the student alone, with live teachers and with cached
    teacher logits. No model is kept; the measurements stay in the store, and `plan` uses them from
    then on.

    \b
    Examples:
      distill-ray bench studies/quickstart.yaml
      distill-ray bench my.yaml --json | jq .ratios
      distill-ray bench my.yaml --name h100 --store s3://bucket/store
    """
    loaded = options.load(study, overrides)
    from distill_ray.planning.bench import bench_study
    from distill_ray.planning.bench_record import check_name, keep_bench
    from distill_ray.store import Store

    if name is not None:
        check_name(name)
    opened = Store.open(store)
    measured = bench_study(loaded)
    keep_bench(opened, loaded, measured, name)
    if as_machine:
        import json

        click.echo(json.dumps(measured.to_dict(), indent=1, allow_nan=False))
    else:
        for line in lines(measured):
            click.echo(line)


def lines(bench: Bench) -> Iterator[str]:
    """What was measured, for people."""
    yield f"{bench.machine}; {bench.device}, {bench.threads} threads"
    yield f"batch {bench.batch_size}, medians of {bench.rounds} rounds"
    yield ""
    for name, speed in bench.images_per_second.items():
        yield f"{name:<40} {speed:>9.1f} images/s {1000 * bench.steps[name]:>9.1f} ms a step"
    yield (
        f"{'teachers alone':<40} {bench.batch_size / bench.teachers:>9.1f} images/s "
        f"{1000 * bench.teachers:>9.1f} ms a batch"
    )
    yield ""
    for name, ratio in bench.ratios.items():
        yield f"{name:<50} {ratio:>9.2f}"
    yield ""
    for name, share in bench.augmentation_shares.items():
        yield (
            f"augmentation {name:<32} {1000 * bench.augmentations[name]:>9.2f} ms a batch "
            f"{100 * share:>9.1f} % of a step"
        )
    yield ""
    yield f"{'a job besides its epochs':<40} {1000 * bench.per_trial:>9.0f} ms"
    yield f"{'memory of this process':<40} {bench.memory / 1e6:>9.0f} MB"
    if bench.teacher_logits:
        yield f"{'teacher logits of an epoch':<40} {bench.teacher_logits / 1e6:>9.1f} MB"
