"""The command that repeats a study over its own randomness."""

from __future__ import annotations

import json
import sys

import click

from distill_ray.cli import options

STEP = 10_000
"""How far the seeds of two repeats are apart: farther than those of one study."""


@click.command(short_help="Repeat a study with other seeds.")
@options.study
@options.locations
@click.option(
    "--times",
    type=click.IntRange(2, 100),
    default=3,
    show_default=True,
    help="How often the study is to have been run, the study itself included.",
)
@click.option("--json", "as_machine", is_flag=True, help="Print the gains as JSON, for programs.")
@options.verbose()
def repeat(
    study: str,
    overrides: tuple[str, ...],
    store: str,
    tracking_uri: str | None,
    search_storage: str | None,
    times: int,
    as_machine: bool,
    verbose: bool,
) -> None:
    """Repeat a study with other teachers, another search and other students, and print what the
    search gained over the defaults, with an interval over the repeats.

    The first is the study itself; repeat 2 is called NAME-repeat-2, and its seed is 10,000 higher.
    What does not depend on the seed is shared: the data with their split, teachers and searches
    whose seeds the file names. What is finished is not run again.

    \b
    Examples:
      distill-ray repeat studies/quickstart.yaml --times 3
    """
    from distill_ray.study import load_study

    first = load_study(study, overrides)
    changes = [of_repeat(number, first.name, first.seed) for number in range(1, times + 1)]
    repeats = [load_study(study, (*overrides, *change)) for change in changes]
    from rich.console import Console

    from distill_ray.report.repeats import as_json, as_text, repeats_of
    from distill_ray.stages.locations import Locations
    from distill_ray.stages.run import run_study

    locations = Locations(store, tracking_uri, search_storage)
    # Standard output is the answer's, where a program reads it
    console = Console(file=sys.stderr if as_machine else sys.stdout)
    results = {
        loaded.name: run_study(loaded, locations, console, verbose=verbose) for loaded in repeats
    }
    gains = repeats_of(results)
    click.echo(json.dumps(as_json(gains), indent=1) if as_machine else as_text(gains))


def of_repeat(number: int, name: str, seed: int) -> tuple[str, ...]:
    """What repeat `number`, from 1, overrides in the study file."""
    if number == 1:
        return ()
    return f"name={name}-repeat-{number}", f"seed={seed + STEP * (number - 1)}"
