"""The command that describes study files."""

from __future__ import annotations

import json

import click

from distill_ray.cli import options


@click.command()
@click.option("--markdown", "page", flag_value="study-file", help="The reference page of the study file instead.")
@click.option("--methods", "page", flag_value="methods", help="The page of the methods instead.")
@options.verbose(expose_value=False)
def schema(page: str | None) -> None:
    """Print the JSON Schema of study files, with which editors complete and check them.

    \b
    Example:
      distill-ray schema > study.schema.json
      and as first line of the study file: # yaml-language-server: $schema=study.schema.json
    """
    from distill_ray.study import reference
    from distill_ray.study.schema import study_schema

    if page is None:
        click.echo(json.dumps(study_schema(), indent=1, ensure_ascii=False))
    else:
        click.echo(reference.methods_page() if page == "methods" else reference.study_file_page(), nl=False)
