"""The command line. Each command imports what it needs when it runs, so that `--help` and `validate` answer at once."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from distill_ray.errors import DistillRayError, RequestError

if TYPE_CHECKING:
    from distill_ray.report.results import StudyResults
    from distill_ray.stages.run import Places
    from distill_ray.study import Study

DEFAULT_STORE = "./distill-ray-store"

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 2 for a wrong request, 1 for a failure, 130 after Ctrl-C.

    This is the one place where errors become text: a line or more for the user, and a traceback only in a file or with
    `--verbose`.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = commands.main(args=list(arguments), prog_name="distill-ray", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except DistillRayError as error:
        click.echo(str(error), err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        again = "; the same command again goes on from here" if "run" in arguments[:1] else ""
        click.echo(f"interrupted{again}", err=True)
        return 130
    except Exception as error:
        click.echo(_unexpected(error, "--verbose" in arguments), err=True)
        return 1


def _unexpected(error: Exception, verbose: bool) -> str:
    """One line about an error that nobody expected; its traceback goes into a file, or is printed."""
    import tempfile
    import traceback

    message = next(iter(str(error).splitlines()), "")
    line = f"distill-ray failed unexpectedly: {type(error).__name__}{': ' * bool(message)}{message}"
    if verbose:
        traceback.print_exception(error)
        return line
    try:
        with tempfile.NamedTemporaryFile("w", prefix="distill-ray-", suffix=".log", delete=False) as file:
            traceback.print_exception(error, file=file)
    except OSError:
        return f"{line} (--verbose shows the traceback)"
    return f"{line} (traceback: {file.name})"


def _options(*decorators: Decorator) -> Decorator:
    """Several decorators as one, in the order in which the help lists them."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


_verbose = functools.partial(click.option, "--verbose", is_flag=True, help="Show what Ray and MLflow print, and tracebacks.")
_store = click.option(
    "--store",
    metavar="URI",
    default=DEFAULT_STORE,
    show_default=True,
    help="Where results are kept and looked for: a folder, or a pyarrow file system such as s3://bucket/folder.",
)
_tracking = click.option(
    "--tracking-uri",
    metavar="URI",
    envvar="MLFLOW_TRACKING_URI",
    show_envvar=True,
    help="The MLflow to record in.  [default: mlflow.db in the store]",
)
_study = _options(
    click.argument("study", metavar="STUDY"),
    click.option(
        "--set",
        "overrides",
        metavar="FIELD=VALUE",
        multiple=True,
        help="Replace a field of the study file, in YAML; may be repeated. Example: --set search.trials=4",
    ),
)
_places = _options(
    _store,
    _tracking,
    click.option(
        "--search-storage",
        metavar="URL",
        help="The Optuna storage of the search, such as postgresql://host/db.  [default: a journal in the store]",
    ),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="distill-ray")
def commands() -> None:
    """Studies of ensemble distillation: train teachers, search how best to distil them into a student, confirm, report.

    \b
    Begin with:
      distill-ray validate studies/quickstart.yaml
      distill-ray run studies/quickstart.yaml
    """


@commands.command()
@_study
@_places
@click.option(
    "--address",
    metavar="ADDRESS",
    envvar="RAY_ADDRESS",
    show_envvar=True,
    help="The Ray cluster to run on, such as auto or ray://head:10001.  [default: one is started here]",
)
@_verbose()
def run(
    study: str,
    overrides: tuple[str, ...],
    store: str,
    tracking_uri: str | None,
    search_storage: str | None,
    address: str | None,
    verbose: bool,
) -> None:
    """Run a study, or what is missing of it.

    Finished jobs are found in the store and never trained again, so after Ctrl-C, a crash, or a change of the study file the
    same command goes on from there.

    \b
    Examples:
      distill-ray run studies/quickstart.yaml
      distill-ray run my.yaml --set search.trials=50 --set student.epochs=30
      distill-ray run my.yaml --address auto --store s3://bucket/studies --tracking-uri http://mlflow:5000
    """
    loaded = _load(study, overrides)
    from rich.console import Console

    from distill_ray.stages.run import Places, report_path, run_study
    from distill_ray.tracking import shown

    places = Places(store, tracking_uri, search_storage, address)
    _show(run_study(loaded, places, Console(file=sys.stdout), verbose=verbose))
    click.echo(f"report  {store}/{report_path(loaded)}")
    shown_store = "" if store == DEFAULT_STORE else f" --store {store}"
    click.echo(f"MLflow  distill-ray ui{shown_store}" if tracking_uri is None else f"MLflow  {shown(tracking_uri)}")


@commands.command()
@_study
@_verbose(expose_value=False)
def validate(study: str, overrides: tuple[str, ...]) -> None:
    """Check a study file and say what it asks for; every problem is listed with its line."""
    loaded = _load(study, overrides)
    click.echo(f"{study}: valid")
    for line in _summary(loaded):
        click.echo(f"  {line}")


@commands.command()
@_study
@_store
@_verbose(expose_value=False)
def plan(study: str, overrides: tuple[str, ...], store: str) -> None:
    """Say what a study would train and about how long that takes here, from a few timed steps; nothing is begun."""
    loaded = _load(study, overrides)
    from distill_ray.report.wording import duration
    from distill_ray.stages.plan import plan_study
    from distill_ray.store import Store

    stages = plan_study(loaded, Store.open(store))
    click.echo(f"{'stage':<8} {'jobs':>6} {'done':>6} {'images':>12} {'time':>9}")
    for stage in stages:
        click.echo(f"{stage.stage:<8} {stage.jobs:>6} {stage.done:>6} {stage.images:>12,} {duration(stage.seconds):>9}")
    click.echo(f"about {duration(sum(stage.seconds for stage in stages))} on this machine, less with early stopping")


@commands.command()
@_study
@_places
@_verbose(expose_value=False)
def status(study: str, overrides: tuple[str, ...], store: str, tracking_uri: str | None, search_storage: str | None) -> None:
    """Say how far a study is: its stages, its trials by state, and the best so far."""
    from distill_ray.report.wording import duration

    results = _results(_load(study, overrides), store, tracking_uri, search_storage)
    click.echo(f"{results.name}: {results.status}")
    for stage in results.stages:
        click.echo(f"  {stage.stage:<8} {stage.status:<9} {stage.done} trained, {stage.reused} reused, {duration(stage.seconds)}")
    states = [trial.state for trial in results.trials]
    if states:
        click.echo("  trials   " + ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)))
    objective, direction = next(iter(results.objectives.items()))
    finished = [trial for trial in results.trials if objective in trial.values]
    if finished:
        pick = min if direction == "min" else max
        best = pick(finished, key=lambda trial: trial.values[objective])
        click.echo(f"  best     trial {best.number}: {objective} {best.values[objective]:.4f} with {dict(best.params)}")


@commands.command()
@_study
@_places
@click.option("--json", "as_machine", is_flag=True, help="Everything as one JSON object, for programs.")
@_verbose(expose_value=False)
def report(
    study: str,
    overrides: tuple[str, ...],
    store: str,
    tracking_uri: str | None,
    search_storage: str | None,
    as_machine: bool,
) -> None:
    """Show the results of a study as a table, or with --json all of them.

    \b
    Examples:
      distill-ray report studies/quickstart.yaml
      distill-ray report studies/quickstart.yaml --json | jq .champion
    """
    results = _results(_load(study, overrides), store, tracking_uri, search_storage)
    if as_machine:
        import json

        from distill_ray.report.machine import as_json

        click.echo(json.dumps(as_json(results), indent=1, allow_nan=False))
    else:
        _show(results)


@commands.command()
@_store
@_tracking
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Port on this machine.")
@_verbose()
def ui(store: str, tracking_uri: str | None, port: int, verbose: bool) -> int:
    """Start the MLflow UI on the records of a store, until Ctrl-C."""
    import pathlib
    import subprocess

    from distill_ray.tracking.address import default_uri, sqlite_file

    uri = tracking_uri or default_uri(pathlib.Path(store).expanduser())
    if uri.startswith(("http://", "https://")):
        raise RequestError(f"{uri} is an MLflow server already; open it in a browser")
    database = sqlite_file(uri)
    if database is not None and not database.exists():
        raise RequestError(f"nothing is recorded in {database}; run a study first, or name its --store")
    click.echo(f"MLflow UI on http://127.0.0.1:{port} (Ctrl-C ends it)")
    server = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(port)]
    try:
        return subprocess.call(server, stderr=None if verbose else subprocess.DEVNULL)
    except KeyboardInterrupt:
        return 0


@commands.group()
def data() -> None:
    """Data sets."""


@data.command("import")
@click.argument("source", metavar="SOURCE")
@click.argument("out", metavar="FOLDER", type=click.Path(file_okay=False))
@click.option("--root", type=click.Path(file_okay=False), help="Where the original files are, or go when downloaded.")
@click.option("--download/--no-download", default=True, show_default=True, help="Fetch original files that are missing.")
@click.option("--overwrite", is_flag=True, help="Replace a data set that is in FOLDER already.")
@_verbose(expose_value=False)
def import_(source: str, out: str, root: str | None, download: bool, overwrite: bool) -> None:
    """Write SOURCE as Parquet into the new FOLDER, which a study then names in data.source.

    SOURCE is cifar10, cifar100, svhn or fashion-mnist, or a folder with train/<class>/ and test/<class>/ full of images.

    \b
    Examples:
      distill-ray data import cifar100 data/cifar100
      distill-ray data import cifar10 data/cifar10 --root ~/downloads --no-download
    """
    from distill_ray.data import import_dataset

    imported = import_dataset(source, out, root=root, download=download, overwrite=overwrite)
    train, test, classes = imported.rows("train"), imported.rows("test"), imported.num_classes
    click.echo(f"{out}: {train} training and {test} test images of {classes} classes; in a study: data: {{source: {out}}}")


def _load(path: str, overrides: tuple[str, ...]) -> Study:
    from distill_ray.study import load_study

    return load_study(path, overrides)


def _summary(study: Study) -> Iterator[str]:
    """What the study asks for, in a few lines."""
    yield f"study     {study.name}, digest {study.digest}"
    for group in study.teachers:
        recipe = group.recipe
        yield f"teachers  {len(group.seeds)} x {recipe.model}, {recipe.epochs} epochs, {recipe.augment.name}"
    yield f"student   {study.student.model}, {study.student.method.name}, {study.student.epochs} epochs"
    objectives = ", ".join(f"{name} {direction}" for name, direction in study.search.objectives.items())
    yield f"search    {study.search.trials} trials by {study.search.sampler}, {objectives}"
    for dimension in study.search.space.dimensions:
        when = " and ".join(f"{each.field} is {' or '.join(map(str, each.labels))}" for each in dimension.when)
        yield f"          {dimension.name}: {dimension.described()}{f' when {when}' if when else ''}"
    yield f"confirm   best {study.confirm.top}, {', '.join(study.confirm.baselines)}; {study.confirm.seeds} seeds each"


def _results(study: Study, store: str, tracking_uri: str | None, search_storage: str | None) -> StudyResults:
    from distill_ray.stages.collect import collect
    from distill_ray.stages.resolve import data_of
    from distill_ray.stages.run import Places
    from distill_ray.store import Store

    places: Places = Places(store, tracking_uri, search_storage)
    return collect(study, data_of(study), Store.open(store), search_storage=search_storage, tracking_uri=places.tracking_uri())


def _show(results: StudyResults) -> None:
    import shutil

    from distill_ray.report.table import as_text, table

    rows = table(results)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 120
    click.echo(as_text(rows, width) if rows else f"{results.name}: no results yet")
