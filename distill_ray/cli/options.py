"""The options that commands share, and what they stand for."""

from __future__ import annotations

import functools
import shlex
import sys
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from distill_ray.addresses import masked
from distill_ray.stages import DEFAULT_STORE as DEFAULT_STORE

if TYPE_CHECKING:
    from distill_ray.report.results import StudyResults
    from distill_ray.study import StudyDefinition

SILENCE_S = 2.0
"""Seconds after which a command that is still loading says so."""

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def several(*decorators: Decorator) -> Decorator:
    """Several decorators as one, in the order in which the help lists them."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


verbose = functools.partial(
    click.option,
    "--verbose",
    is_flag=True,
    help="Show the output of Ray and MLflow, and tracebacks.",
)
store = click.option(
    "--store",
    metavar="URI",
    default=DEFAULT_STORE,
    show_default=True,
    help="Where results are stored: a folder, or a pyarrow file system such as s3://bucket/folder.",
)
tracking = click.option(
    "--tracking-uri",
    metavar="URI",
    envvar="MLFLOW_TRACKING_URI",
    show_envvar=True,
    help="MLflow to record in.  [default: mlflow.db in the store]",
)
search_storage = click.option(
    "--search-storage",
    metavar="URL",
    envvar="DISTILL_RAY_SEARCH_STORAGE",
    show_envvar=True,
    help="Optuna storage of the search, such as postgresql://host/db.  "
    "[default: a journal in the store]",
)
extension = click.option(
    "--extension",
    metavar="FILE",
    multiple=True,
    expose_value=False,
    is_eager=True,
    callback=lambda context, parameter, value: _load_module_files(value),
    help="A Python file whose networks the study names, those of nets.py as nets/NAME; it is run. "
    "May be repeated.",
)
overrides = several(
    click.option(
        "--set",
        "overrides",
        metavar="FIELD=VALUE",
        multiple=True,
        help="Override a field of the study file, in YAML; may be repeated. "
        "Example: --set search.trials=4",
    ),
    extension,
)
study = several(click.argument("study", metavar="STUDY"), overrides)
locations = several(store, tracking, search_storage)


def _load_module_files(paths: tuple[str, ...]) -> None:
    from distill_ray.models.own_modules import load_module_files, read_module_file

    load_module_files([read_module_file(path) for path in paths])


def load(path: str, overrides: tuple[str, ...], *, is_asking: bool = False) -> StudyDefinition:
    """The study that `study` and `--set` stand for; see `load_study`. Raises `RequestError` listing
    all that is wrong with it.
    """
    from distill_ray.study import load_study

    study = load_study(path, overrides, earlier_networks(), is_asking=is_asking)
    announce_loading()
    return study


def earlier_networks() -> Callable[[str], Mapping[str, Any]]:
    """What finds the networks that a study takes `from` the store of this command."""
    store = click.get_current_context().params.get("store", DEFAULT_STORE)

    def find(source: str) -> Mapping[str, Any]:
        from distill_ray.imported_weights import network_from

        return network_from(source, store)

    return find


def announce_loading() -> None:
    """Print that the command is loading, if that takes longer than `SILENCE_S`.

    Torch, MLflow and the like take seconds to import, on a busy machine a minute.
    """
    context = click.get_current_context()
    text = f"distill-ray {context.info_name}: loading ..."
    timer = threading.Timer(SILENCE_S, click.echo, (text,), {"err": True})
    timer.daemon = True
    context.call_on_close(timer.cancel)
    timer.start()


def command(*words: str, store: str) -> str:
    """A command of `distill-ray` as the user can copy it: quoted, and with the store in use."""
    option = [] if store == DEFAULT_STORE else ["--store", masked(store)]
    return shlex.join(["distill-ray", *words, *option])


def show(results: StudyResults, store: str) -> None:
    """Print the answer and the table of a study, or that there is none in `store`."""
    import shutil

    from distill_ray.escaping import for_terminal
    from distill_ray.report.cautions import cautions
    from distill_ray.report.comparison import comparisons
    from distill_ray.report.summary import calibrated_sentence, headline
    from distill_ray.report.table import as_text

    rows = results.rows
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 120
    if rows:
        click.echo(as_text(rows, width))
        answer = " ".join(headline(results, rows, comparisons(rows)))
        click.echo(click.wrap_text(for_terminal(answer), width) + "\n")
        if taught := calibrated_sentence(results):
            click.echo(click.wrap_text(for_terminal(taught), width) + "\n")
        for caution in cautions(rows):
            click.echo(click.wrap_text(for_terminal(f"caution: {caution}"), width))
    else:
        click.echo(f"{results.name}: no results yet in {masked(store)}")
    if results.foreign:
        from distill_ray.report import uncertainty

        table = uncertainty.as_text(uncertainty.foreign_rows(results), uncertainty.SEPARATION)
        click.echo(f"{table}\n\n{click.wrap_text(uncertainty.LEGEND, width)}\n")
    if results.screening:
        from distill_ray.report.screening import as_text as screening_text

        click.echo(screening_text(results, rows))
