"""Commands that look at a study: status, report, ui."""

from __future__ import annotations

import sys

import click

from distill_ray.cli import options
from distill_ray.errors import RequestError


@click.command()
@options.study
@options.places
@options.verbose(expose_value=False)
def status(study: str, overrides: tuple[str, ...], store: str, tracking_uri: str | None, search_storage: str | None) -> None:
    """Say how far a study is: its stages, its trials by state, and the best so far."""
    from distill_ray.report.wording import duration

    results = options.results(options.load(study, overrides), store, tracking_uri, search_storage)
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


@click.command()
@options.study
@options.places
@click.option("--json", "as_machine", is_flag=True, help="Everything as one JSON object, for programs.")
@options.verbose(expose_value=False)
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
    results = options.results(options.load(study, overrides), store, tracking_uri, search_storage)
    if as_machine:
        import json

        from distill_ray.report.machine import as_json

        click.echo(json.dumps(as_json(results), indent=1, allow_nan=False))
    else:
        options.show(results)


@click.command()
@options.store
@options.tracking
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Port on this machine.")
@options.verbose()
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
