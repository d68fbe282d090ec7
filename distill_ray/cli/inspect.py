"""Commands that look at a study: status, logs, report, compare, ui."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from distill_ray.cli import options
from distill_ray.errors import RequestError
from distill_ray.escaping import for_terminal
from distill_ray.log_printing import printable

if TYPE_CHECKING:
    from distill_ray.stages.state import JobStatus
    from distill_ray.store import Store


@click.command()
@options.study
@options.store
@options.search_storage
@click.option("--watch", is_flag=True, help="Keep watching until the study is finished or Ctrl-C.")
@click.option(
    "--every",
    type=click.FloatRange(0.1),
    default=2.0,
    show_default=True,
    help="Seconds between two updates.",
)
@options.verbose(expose_value=False)
def status(
    study: str,
    overrides: tuple[str, ...],
    store: str,
    search_storage: str | None,
    watch: bool,
    every: float,
) -> None:
    """Show a study's progress.

    Shows its stages, what is running and the best result so far. Reads only the store and the
    search storage, so it works from any terminal or machine that reaches both.
    """
    import time

    loaded = options.load(study, overrides)
    from distill_ray.stages.locations import Locations
    from distill_ray.stages.state import StudyState
    from distill_ray.stages.status import status_lines, study_status

    state = StudyState.at(loaded, Locations(store, search_storage=search_storage))
    printed: list[str] = []
    while True:
        now = study_status(state)
        lines = list(status_lines(now, next(iter(loaded.search.objectives)), state.store.shown))
        if lines != printed:
            if printed and sys.stdout.isatty():
                click.clear()
            for line in lines:
                click.echo(printable(line))
            sys.stdout.flush()
            printed = lines
        if not watch or now.finished:
            return
        time.sleep(every)


@click.command()
@click.argument("what", metavar="JOB | STUDY [ROLE NUMBER]", nargs=-1, required=True)
@options.overrides
@options.store
@options.search_storage
@options.verbose(expose_value=False)
def logs(
    what: tuple[str, ...], overrides: tuple[str, ...], store: str, search_storage: str | None
) -> None:
    """Print the log of a job, or list the jobs of a study.

    A job is named by the beginning of its id, or by its study, role and number. With a study alone,
    its jobs are listed: id, description, state.

    \b
    Examples:
      distill-ray logs 3f2ab
      distill-ray logs studies/quickstart.yaml
      distill-ray logs studies/quickstart.yaml trial 7
      distill-ray logs studies/quickstart.yaml teacher 0
    """
    from pathlib import Path

    from distill_ray.events import describe
    from distill_ray.records import log_path
    from distill_ray.stages.locations import Locations
    from distill_ray.stages.state import StudyState
    from distill_ray.store import Store

    opened = Store.open(store, make=False)
    if len(what) == 1 and not Path(what[0]).is_file():
        job_id = _job_beginning_with(what[0], opened)
    else:
        loaded = options.load(what[0], overrides)
        jobs = StudyState.at(loaded, Locations(store, search_storage=search_storage)).jobs()
        if len(what) == 1:
            for job in jobs:
                reason = f": {job.reason}" if job.reason else ""
                line = f"{job.run.job.id}  {job.state:<11} {describe(job.run)}{reason}"
                click.echo(printable(line))
            return
        job_id = _job_called(what[1:], jobs, loaded.name)
    content = opened.read(log_path(job_id))
    if content is None:
        raise RequestError(
            f"job {job_id} has no log in {opened.shown}: it has hardly begun, or was trained "
            "elsewhere"
        )
    click.echo(printable(content.decode(errors="replace")), nl=False)


def _job_beginning_with(digits: str, store: Store) -> str:
    """The one job with a log whose id begins with these digits."""
    names = [name for name in store.names("logs") if name.endswith(".log")]
    ids = [name.removesuffix(".log") for name in names if name.startswith(digits)]
    if len(ids) == 1:
        return ids[0]
    problem = f"{len(ids)} logs begin with it, give more digits" if ids else "no log begins with it"
    raise RequestError(
        f"job {digits}: {problem} (store {store.shown}; a study file would list its jobs)"
    )


def _job_called(words: Sequence[str], jobs: Sequence[JobStatus], study: str) -> str:
    """The job with this role and number."""
    if len(words) == 2:
        role, number = words[0], words[1].lstrip("0") or "0"
        for job in jobs:
            if (job.run.role, str(job.run.number)) == (role, number):
                return job.run.job.id
    last = {job.run.role: job.run.number for job in jobs}
    known = ", ".join(f"{role} 0 to {number}" for role, number in last.items())
    raise RequestError(f"{' '.join(words)}: no such job of {study}; there are {known}")


@click.command()
@options.study
@options.locations
@click.option(
    "--json", "as_machine", is_flag=True, help="Print everything as one JSON object, for programs."
)
@options.verbose(expose_value=False)
def report(
    study: str,
    overrides: tuple[str, ...],
    store: str,
    tracking_uri: str | None,
    search_storage: str | None,
    as_machine: bool,
) -> None:
    """Show the results of a study as a table.

    \b
    Examples:
      distill-ray report studies/quickstart.yaml
      distill-ray report studies/quickstart.yaml --json | jq .champion
    """
    loaded = options.load(study, overrides)
    from distill_ray.stages.collect import load_results
    from distill_ray.stages.locations import Locations

    results, _, opened = load_results(loaded, Locations(store, tracking_uri, search_storage))
    if not (results.rows or results.trials or results.screening):
        raise RequestError(_no_results(results.name, opened.shown))
    if as_machine:
        import json

        from distill_ray.report.to_json import as_json

        click.echo(json.dumps(as_json(results), indent=1, allow_nan=False))
    else:
        options.show(results, store)


@click.command()
@click.argument("studies", metavar="STUDY[@STORE]...", nargs=-1, required=True)
@options.overrides
@options.store
@options.search_storage
@click.option(
    "--json", "as_machine", is_flag=True, help="Print everything as one JSON object, for programs."
)
@options.verbose(expose_value=False)
def compare(
    studies: tuple[str, ...],
    overrides: tuple[str, ...],
    store: str,
    search_storage: str | None,
    as_machine: bool,
) -> None:
    """Show the results of several studies in one table.

    Of several studies, or of one in several stores. The best student of the first is compared with
    all others that were evaluated on the same test images, and differences beyond chance are
    marked. A study without @STORE is read from --store. --set overrides a field of all of them.

    \b
    Examples:
      distill-ray compare kd.yaml latent-be.yaml
      distill-ray compare my.yaml@old-store my.yaml@new-store --json
    """
    from distill_ray.addresses import masked
    from distill_ray.report.compare import as_json, as_text, compare_studies
    from distill_ray.stages.collect import load_results
    from distill_ray.stages.locations import Locations

    placed = [_place(study, store) for study in studies]
    results = [
        load_results(options.load(file, overrides), Locations(place, None, search_storage))[0]
        for file, place in placed
    ]
    names = [study_results.name for study_results in results]
    labels = [
        name if names.count(name) == 1 else f"{name}@{masked(place)}"
        for name, (_, place) in zip(names, placed, strict=True)
    ]
    if len(set(labels)) < len(labels):
        raise RequestError("the same study in the same store is named twice")
    empty = [
        _no_results(name, masked(place))
        for name, study_results, (_, place) in zip(labels, results, placed, strict=True)
        if not study_results.rows
    ]
    if len(empty) == len(results):
        raise RequestError("\n".join(empty))
    for line in empty:
        click.echo(for_terminal(line), err=True)
    compared = compare_studies(dict(zip(labels, results, strict=True)))
    if as_machine:
        import json

        click.echo(json.dumps(as_json(compared), indent=1, allow_nan=False))
    else:
        click.echo(as_text(compared))


def _no_results(study: str, store: str) -> str:
    return f"{study}: no results yet in {store}; run it, or name the store that has them"


def _place(given: str, store: str) -> tuple[str, str]:
    """The study file and the store of `STUDY[@STORE]`; both may have an @ in their name."""
    from pathlib import Path

    parts = given.split("@")
    for length in range(len(parts) - 1, 0, -1):
        file = "@".join(parts[:length])
        if not Path(given).is_file() and Path(file).is_file():
            return file, "@".join(parts[length:])
    return given, store


@click.command()
@options.store
@options.tracking
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; 0.0.0.0 lets everybody in your network see and edit runs.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=5000,
    show_default=True,
    help="Port on this machine.",
)
@options.verbose()
def ui(store: str, tracking_uri: str | None, host: str, port: int, verbose: bool) -> None:
    """Start the MLflow UI on a store, until Ctrl-C."""
    from distill_ray.addresses import masked
    from distill_ray.stages.locations import Locations
    from distill_ray.tracking.address import check_tracking, sqlite_file
    from distill_ray.tracking.run_lists import pages_of_studies
    from distill_ray.tracking.ui_server import serve

    uri = Locations(store, tracking_uri).recorded_uri()
    if uri.startswith(("http://", "https://")):
        raise RequestError(f"{masked(uri)} is an MLflow server already; open it in a browser")
    check_tracking(uri)
    _check_port(host, port)
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    click.echo(f"the MLflow UI on {masked(uri)} is starting, which takes a while ...", err=True)

    def ready() -> None:
        click.echo(f"MLflow UI on {address} (Ctrl-C ends it)")
        database = sqlite_file(uri)
        studies = {} if database is None else pages_of_studies(database)
        for study, pages in studies.items():
            for name, path in pages.items():
                click.echo(f"  {for_terminal(study)} {name:<8} {address}/{path}")
        sys.stdout.flush()

    serve(uri, host, port, ready=ready, verbose=verbose)


def _check_port(host: str, port: int) -> None:
    """Raise `RequestError` when no server can be started on `port` of `host`."""
    import errno
    import socket

    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            # As servers do: one that has just ended is no obstacle
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise RequestError(
                f"port {port} is taken by another program; choose another with --port"
            ) from None
        raise RequestError(
            f"{for_terminal(host)}, port {port}: cannot be used ({error.strerror or error}); "
            "choose others with --host and --port"
        ) from None
