"""Commands around a run of a study: run, validate, plan."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from distill_ray.addresses import masked
from distill_ray.cli import options
from distill_ray.escaping import for_terminal

if TYPE_CHECKING:
    from distill_ray.planning.plan_teacher_logits import TeacherLogitsPlan
    from distill_ray.study import Study


@click.command()
@options.study
@options.places
@click.option(
    "--address",
    metavar="ADDRESS",
    envvar="RAY_ADDRESS",
    show_envvar=True,
    help="Ray cluster to run on, such as auto or HOST:6379.  [default: one is started here]",
)
@options.verbose()
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

    Finished jobs are found in the store and never trained again, so after Ctrl-C, a crash, or a
    change to the study file the same command resumes from there.

    \b
    Examples:
      distill-ray run studies/quickstart.yaml
      distill-ray run my.yaml --set search.trials=50 --set student.epochs=30
      distill-ray run my.yaml --address auto --store s3://bucket/studies
    """
    # A cluster that stops a job, or a machine that is taken away, gives seconds: what Ctrl-C does
    # fits into them.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from distill_ray.study import load_study

    loaded = load_study(study, overrides)
    click.echo(f"study {loaded.name}, digest {loaded.digest}, in {masked(store)}")
    sys.stdout.flush()
    from rich.console import Console

    from distill_ray.stages.locations import Locations
    from distill_ray.stages.run import TrackingIncompleteError, report_path, run_study

    places = Locations(store, tracking_uri, search_storage, address)
    incomplete: TrackingIncompleteError | None = None
    try:
        results = run_study(loaded, places, Console(file=sys.stdout), verbose=verbose)
    except TrackingIncompleteError as error:
        results, incomplete = error.results, error
    options.show(results, store)
    click.echo(f"report  {masked(store)}/{report_path(loaded)}")
    if tracking_uri is None:
        click.echo(f"MLflow  {options.command('ui', store=store)}")
    else:
        click.echo(f"MLflow  {masked(tracking_uri)}")
    if incomplete is not None:
        raise incomplete


@click.command()
@options.study
@options.verbose(expose_value=False)
def validate(study: str, overrides: tuple[str, ...]) -> None:
    """Check a study file and summarise it.

    Every problem is listed with its line. Of the data set a few images are opened; if it is not on
    this machine, only the study file is checked.
    """
    loaded = options.load(study, overrides)
    from distill_ray.data import open_source
    from distill_ray.data.finding import is_elsewhere

    sentences = [f"data set {loaded.data.source} is not on this machine, so it was not looked at"]
    if not is_elsewhere(loaded.data.source):
        from distill_ray.data.survey import survey
        from distill_ray.resolve import check_source

        source = open_source(loaded.data.source, label=loaded.data.label)
        check_source(loaded, source)
        sentences = survey(source, loaded.data.size)
    click.echo(f"{study}: valid")
    for sentence in sentences:
        click.echo(f"  {for_terminal(sentence)}")
    for line in _summary(loaded):
        click.echo(f"  {line}")


@click.command()
@options.study
@options.places
@options.verbose(expose_value=False)
def plan(
    study: str,
    overrides: tuple[str, ...],
    store: str,
    tracking_uri: str | None,
    search_storage: str | None,
) -> None:
    """Estimate jobs, images and time without running the study.

    The time on this machine is estimated from a few training steps, which are not kept. What would
    keep `run` from starting is said here too.
    """
    loaded = options.load(study, overrides)
    from distill_ray.planning.plan import plan_study
    from distill_ray.report.format import duration
    from distill_ray.search.warm_start import earlier_trials, note_of_trials_set_aside
    from distill_ray.stages.locations import Locations
    from distill_ray.stages.request import check_request

    state = check_request(loaded, Locations(store, tracking_uri, search_storage))
    known = len(earlier_trials(loaded, state.store, search_storage))
    stages = plan_study(state)
    click.echo(f"{'stage':<8} {'jobs':>6} {'done':>6} {'images':>12} {'time':>9}")
    for stage in stages:
        counts = f"{stage.stage:<8} {stage.jobs:>6} {stage.done:>6} {stage.images:>12,}"
        click.echo(f"{counts} {duration(stage.seconds):>9}")
    for stage in stages:
        if stage.teacher_logits is not None:
            click.echo(f"{stage.stage}: {_teacher_logits(stage.teacher_logits)}")
    if known:
        sources = for_terminal(", ".join(loaded.search.warm_start))
        click.echo(f"search: warm-started with {known} trials of {sources}")
    if note := note_of_trials_set_aside(
        state.study, state.data, state.teacher_ids, state.store, search_storage
    ):
        click.echo(note)
    if all(stage.done == stage.jobs for stage in stages):
        click.echo("nothing is left to train")
    else:
        total = duration(sum(stage.seconds for stage in stages))
        click.echo(f"about {total} on this machine, less with early stopping")


def _teacher_logits(plan: TeacherLogitsPlan) -> str:
    """What the teachers' logits cost a stage, cached or live."""
    from distill_ray.report.format import duration

    if plan.pays_from < math.inf:
        cheaper = f"caching is cheaper from {plan.pays_from:g} jobs on"
    else:
        cheaper = "no two jobs share them"
    return (
        f"teacher logits {'cached' if plan.stored else 'live'}; "
        f"cached: {duration(plan.seconds)} once and {plan.bytes / 1e6:,.0f} MB on disk, "
        f"live: {duration(plan.live_seconds)} over all jobs; {cheaper}"
    )


def _summary(study: Study) -> Iterator[str]:
    """What the study asks for, in a few lines."""
    yield f"study     {study.name}, digest {study.digest}"
    for group in study.teachers:
        recipe = group.recipe
        training = f"{recipe.epochs} epochs, {recipe.augmentation.name}"
        yield f"teachers  {len(group.seeds)} x {recipe.model}, {training}"
    student = study.student
    yield f"student   {student.model}, {student.method.name}, {student.epochs} epochs"
    if study.screen is not None:
        kept = f", the best {study.screen.keep} are searched" if study.screen.keep else ""
        yield f"screen    {len(study.screen.candidates)} augmentations by T. stddev{kept}"
    objectives = ", ".join(
        f"{name} {direction}" for name, direction in study.search.objectives.items()
    )
    warm = (
        f", warm-started from {' and '.join(study.search.warm_start)}"
        if study.search.warm_start
        else ""
    )
    yield f"search    {study.search.trials} trials by {study.search.sampler}, {objectives}{warm}"
    for dimension in study.search.space.dimensions:
        when = " and ".join(
            f"{each.field} is {' or '.join(map(str, each.labels))}" for each in dimension.when
        )
        condition = f" when {when}" if when else ""
        yield f"          {dimension.name}: {dimension.described()}{condition}"
    confirmed = ", ".join([*study.confirm.baselines, *study.confirm.ensembles])
    yield f"confirm   best {study.confirm.top}, {confirmed}; {study.confirm.seeds} seeds each"
