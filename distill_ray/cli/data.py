"""Commands around data sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from distill_ray.cli import options

if TYPE_CHECKING:
    from distill_ray.data.checking import DataCheck, SplitLook


@click.group()
def data() -> None:
    """Look at data sets, and convert published ones, image folders and tar files to Parquet."""


@data.command()
@click.argument("path", metavar="PATH")
@click.option("--label", help="Label column, where a data set has several.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, for programs.")
@options.verbose(expose_value=False)
@click.pass_context
def check(context: click.Context, path: str, label: str | None, as_json: bool) -> None:
    """Look at every image of a data set, before a night is spent on it.

    PATH is what a study file names in data.source. Counts, classes, sizes and colours are shown;
    broken files, images that two splits share (byte for byte, or to the eye), copies under
    different classes, and unbalanced classes are named. Exit code 1 means that there is something
    to mend: broken files or a leak.

    \b
    Examples:
      distill-ray data check photos
      distill-ray data check s3://bucket/birds --label species --json
    """
    from distill_ray.data import open_source
    from distill_ray.data.checking import check_data
    from distill_ray.data.findings import findings, to_json

    checked = check_data(open_source(path, label=label, named_by="PATH"))
    if as_json:
        import json

        click.echo(json.dumps(to_json(checked), indent=2))
    else:
        _show(checked)
    if any(finding.severity == "error" for finding in findings(checked)):
        context.exit(1)


def _show(checked: DataCheck) -> None:
    """Print the check: a line for each split, then what was found."""
    from distill_ray.data.findings import findings
    from distill_ray.escaping import for_terminal
    from distill_ray.report.text_table import text_table

    names = checked.class_names
    classes = "class" if len(names) == 1 else "classes"
    click.echo(for_terminal(f"{checked.location}: {len(names):,} {classes} by {checked.label}"))
    header = ["split", "images", "classes", "per class", "pixels", "modes", "files"]
    rows = [_line(look, len(names)) for look in checked.looks.values()]
    click.echo("\n".join(text_table(header, rows)))
    remarks = findings(checked)
    for finding in remarks:
        click.echo(for_terminal(f"{finding.severity}: {finding.text}"))
        for example in finding.examples:
            click.echo(f"  {for_terminal(example)}")
    if not remarks:
        click.echo("nothing was found that needs mending")


def _line(look: SplitLook, num_classes: int) -> list[str]:
    counts = [count for count in look.class_counts(num_classes) if count]
    sizes = look.sizes()
    pixels = per_class = ""
    if counts:
        per_class = f"{min(counts):,} to {max(counts):,}"
    if sizes:
        smallest, largest = ("x".join(map(str, sizes[name])) for name in ("smallest", "largest"))
        pixels = smallest if smallest == largest else f"{smallest} to {largest}"
    return [
        look.part,
        f"{look.rows:,}",
        f"{len(counts):,}",
        per_class,
        pixels,
        ", ".join(mode for mode, _ in look.modes.most_common()),
        ", ".join(kind for kind, _ in look.formats.most_common()),
    ]


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
@click.option("--label", help="Label column to keep, where a folder has several.")
@click.option("--overwrite", is_flag=True, help="Replace a data set that is already in FOLDER.")
@options.verbose(expose_value=False)
def import_(
    source: str, out: str, root: str | None, download: bool, label: str | None, overwrite: bool
) -> None:
    """Write SOURCE as Parquet into the new FOLDER, to be named in a study's data.source.

    SOURCE is cifar10, cifar100, svhn or fashion-mnist; or a folder of images that a study could
    read too: in train/<class>/ and test/<class>/ (or val/<class>/), in tar files of webdataset
    (train-*.tar, ...), or listed by a table (train/metadata.csv). They are kept byte for byte.

    \b
    Examples:
      distill-ray data import cifar100 data/cifar100
      distill-ray data import cifar10 data/cifar10 --root ~/downloads --no-download
      distill-ray data import shards data/birds --label species
    """
    from distill_ray.data import import_dataset

    imported = import_dataset(
        source, out, label=label, root=root, download=download, overwrite=overwrite
    )
    train, test, classes = imported.rows("train"), imported.rows("test"), imported.num_classes
    click.echo(
        f"{out}: {train} training and {test} test images of {classes} classes; in a study: "
        f"data: {{source: {out}}}"
    )
