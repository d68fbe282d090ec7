"""The command that looks at teachers which somebody trained elsewhere."""

from __future__ import annotations

import json

import click

from distill_ray.cli import options


@click.command(short_help="Check teachers that somebody trained.")
@options.study
@options.store
@click.option(
    "--json", "as_machine", is_flag=True, help="Print everything as one JSON list, for programs."
)
@options.verbose(expose_value=False)
def teachers(study: str, overrides: tuple[str, ...], store: str, as_machine: bool) -> None:
    """List the teachers whose weights a study takes as they are, and check them.

    Files are read and fitted to their networks, and each teacher is measured on the validation
    split, or was when the study ran. One that is no better than guessing, or far below the others,
    is measured again with other orders of channels and classes, value ranges, means and sizes of
    images: what helps is said. Nothing is written.

    \b
    Examples:
      distill-ray teachers my.yaml
      distill-ray teachers my.yaml --extension nets.py --json
    """
    loaded = options.load(study, overrides)
    from distill_ray.escaping import for_terminal
    from distill_ray.records import find_job
    from distill_ray.report.text_table import text_table
    from distill_ray.resolve import data_of
    from distill_ray.stages.given_teachers import MAY_HAVE_SEEN, given_teachers, to_json
    from distill_ray.store import Store

    opened = Store.at(store)
    given = given_teachers(loaded, data_of(loaded), opened, lambda job: find_job(opened, job.id))
    if as_machine:
        click.echo(json.dumps(to_json(given), indent=1))
        return
    if not given:
        click.echo(f"{study}: no teachers with weights from files that are taken as they are")
        return
    header = ("teacher", "file", "digest", "model", "accuracy %", "NLL", "T", "prepared")
    rows = [
        (
            teacher.name,
            teacher.weights,
            teacher.digest,
            teacher.model,
            f"{100 * teacher.accuracy:.2f}",
            f"{teacher.nll:.3f}",
            "-" if teacher.temperature is None else f"{teacher.temperature:.3g}",
            teacher.prepared,
        )
        for teacher in given
    ]
    click.echo("\n".join(text_table(header, rows)))
    for teacher in given:
        for doubt in teacher.doubts:
            click.echo(for_terminal(f"{teacher.name}: {doubt}"))
    click.echo(f"on {given[0].images:,} validation images; {MAY_HAVE_SEEN}")
