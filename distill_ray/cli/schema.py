"""The command that describes study files."""

from __future__ import annotations

import json
from pathlib import Path

import click

from distill_ray.cli import options


@click.command()
@click.option("--markdown", is_flag=True, help="Print the reference page of study files instead.")
@click.option(
    "--methods",
    "folder",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write a page for each method, and an index, into FOLDER instead.",
)
@options.verbose(expose_value=False)
def schema(markdown: bool, folder: Path | None) -> None:
    """Print the JSON Schema of study files.

    Editors use it for completion and checks.

    \b
    Example:
      distill-ray schema > study.schema.json
      and, as the first line of the study file: # yaml-language-server: $schema=study.schema.json
    """
    from distill_ray.study import reference
    from distill_ray.study.schema import study_schema

    if folder is not None:
        pages = reference.method_pages()
        folder.mkdir(parents=True, exist_ok=True)
        for name, page in pages.items():
            (folder / name).write_text(page, encoding="utf-8")
        click.echo(f"{folder}: {len(pages)} pages")
    elif markdown:
        click.echo(reference.study_file_page(), nl=False)
    else:
        click.echo(json.dumps(study_schema(), indent=1, ensure_ascii=False))
