"""Commands around data sets."""

from __future__ import annotations

import click

from distill_ray.cli import options


@click.group()
def data() -> None:
    """Convert published data sets and image folders to Parquet."""


@data.command("import")
@click.argument("source", metavar="SOURCE")
@click.argument("out", metavar="FOLDER", type=click.Path(file_okay=False))
@click.option(
    "--root",
    type=click.Path(file_okay=False),
    help="Folder of the original files, or to download them into.",
)
@click.option(
    "--download/--no-download",
    default=True,
    show_default=True,
    help="Download original files that are missing.",
)
@click.option("--overwrite", is_flag=True, help="Replace a data set that is already in FOLDER.")
@options.verbose(expose_value=False)
def import_(source: str, out: str, root: str | None, download: bool, overwrite: bool) -> None:
    """Write SOURCE as Parquet into the new FOLDER, to be named in a study's data.source.

    SOURCE is cifar10, cifar100, svhn or fashion-mnist, or a folder with images in train/<class>/
    and test/<class>/ (or val/<class>/).

    \b
    Examples:
      distill-ray data import cifar100 data/cifar100
      distill-ray data import cifar10 data/cifar10 --root ~/downloads --no-download
    """
    from distill_ray.data import import_dataset

    imported = import_dataset(source, out, root=root, download=download, overwrite=overwrite)
    train, test, classes = imported.rows("train"), imported.rows("test"), imported.num_classes
    click.echo(
        f"{out}: {train} training and {test} test images of {classes} classes; in a study: "
        f"data: {{source: {out}}}"
    )
