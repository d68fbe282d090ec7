"""Commands around teachers' answers: ask, export and import."""

from __future__ import annotations

from pathlib import Path

import click

from distill_ray.cli import options


@click.group("teacher-logits")
def teacher_logits() -> None:
    """Exchange what teachers answer for the versions of the images."""


_study_and_folder = options.several(
    options.study,
    click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path)),
    options.store,
    options.search_storage,
)


@teacher_logits.command()
@_study_and_folder
@click.option("--with-images", is_flag=True, help="Also the images as teachers are to see them.")
@options.verbose(expose_value=False)
def ask(
    study: str,
    overrides: tuple[str, ...],
    folder: Path,
    store: str,
    search_storage: str | None,
    with_images: bool,
) -> None:
    """Write what a study asks of teachers that are not here into FOLDER, as Parquet.

    For a study whose teachers are a folder of `answers`, which need not be there yet, and whose
    student has versions. There is a file for each version and for the validation and the test
    split, with a row per image; docs/versions.md says how to answer.

    \b
    Example:
      distill-ray teacher-logits ask my.yaml answers --with-images
    """
    loaded = options.load(study, overrides, is_asking=True)
    from distill_ray.resolve import data_of
    from distill_ray.stages.absent_teachers import ask as ask_teachers
    from distill_ray.stages.state import StudyState
    from distill_ray.store import Store

    state = StudyState(loaded, data_of(loaded), Store.at(store), search_storage)
    files = ask_teachers(state, folder, with_images=with_images)
    click.echo(f"{folder}: {files} files")


@teacher_logits.command("export")
@_study_and_folder
@click.option("--with-images", is_flag=True, help="Also the images as teachers saw them.")
@options.verbose(expose_value=False)
def export_(
    study: str,
    overrides: tuple[str, ...],
    folder: Path,
    store: str,
    search_storage: str | None,
    with_images: bool,
) -> None:
    """Write the teachers' answers of a study into FOLDER, as Parquet.

    For a study whose student has versions. There is a file for each augmentation and version, with
    a row per image and teacher; docs/versions.md describes it.

    \b
    Example:
      distill-ray teacher-logits export my.yaml answers --with-images
    """
    loaded = options.load(study, overrides)
    from distill_ray.stages.exchange import export_answers
    from distill_ray.stages.locations import Locations
    from distill_ray.stages.state import StudyState

    state = StudyState.at(loaded, Locations(store, None, search_storage))
    files = export_answers(state, folder, with_images=with_images)
    click.echo(f"{folder}: {files} files")


@teacher_logits.command("import")
@_study_and_folder
@options.verbose(expose_value=False)
def import_(
    study: str,
    overrides: tuple[str, ...],
    folder: Path,
    store: str,
    search_storage: str | None,
) -> None:
    """Put answers that were computed elsewhere into the store, in place of computing them.

    FOLDER is laid out as `export` does it. The answers must be for the images, classes, teachers
    and versions of the study; anything else is refused before anything is stored.

    \b
    Example:
      distill-ray teacher-logits import my.yaml answers
    """
    loaded = options.load(study, overrides)
    from distill_ray.resolve import data_of
    from distill_ray.stages.exchange import import_answers
    from distill_ray.stages.state import StudyState
    from distill_ray.store import Store

    state = StudyState(loaded, data_of(loaded), Store.open(store, make=False), search_storage)
    images = import_answers(state, folder)
    click.echo(f"{folder}: teachers' answers for {images:,} images are in the store")
