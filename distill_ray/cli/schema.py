"""The command that describes study files."""

from __future__ import annotations

import json
from pathlib import Path

import click

from distill_ray.cli import options


@click.command()
@click.option(
    "--pages",
    "folder",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the reference pages into FOLDER instead: study file, models, metrics, methods.",
)
@options.verbose(expose_value=False)
def schema(folder: Path | None) -> None:
    """Print the JSON Schema of study files.

    Editors use it for completion and checks.

    \b
    Example:
      distill-ray schema > study.schema.json
      and, as the first line of the study file: # yaml-language-server: $schema=study.schema.json
    """
    from distill_ray.study import reference
    from distill_ray.study.schema import study_schema

    if folder is None:
        click.echo(json.dumps(study_schema(), indent=1, ensure_ascii=False))
        return
    pages = reference.pages()
    for name, page in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    click.echo(f"{folder}: {len(pages)} pages")
