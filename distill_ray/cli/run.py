"""Commands around a run of a study: run, validate, plan."""

from __future__ import annotations

import itertools
import math
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from distill_ray.addresses import masked
from distill_ray.cli import options
from distill_ray.cli.model import export_student
from distill_ray.errors import RequestError
from distill_ray.escaping import for_terminal

if TYPE_CHECKING:
    from distill_ray.job import Recipe
    from distill_ray.planning.bench_record import Elsewhere
    from distill_ray.planning.plan import StagePlan
    from distill_ray.planning.plan_teacher_logits import TeacherLogitsPlan
    from distill_ray.study import StudyDefinition


@click.command()
@options.study
@options.locations
@click.option(
    "--address",
    metavar="ADDRESS",
    envvar="RAY_ADDRESS",
    show_envvar=True,
    help="Ray cluster to run on, such as auto or HOST:6379.  [default: one is started here]",
)
@click.option(
    "--export",
    "out",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="New folder for the best student and its model card, as `export` writes it.",
)
@options.verbose()
def run(
    study: str,
    overrides: tuple[str, ...],
    store: str,
    tracking_uri: str | None,
    search_storage: str | None,
    address: str | None,
    out: Path | None,
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
      distill-ray run my.yaml --export student
    """
    # A cluster that stops a job, or a machine that is taken away, gives seconds: what Ctrl-C does
    # fits into them.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from distill_ray.study import load_study

    loaded = load_study(study, overrides, options.earlier_networks())
    click.echo(f"study {loaded.name}, digest {loaded.digest}, in {masked(store)}")
    sys.stdout.flush()
    from rich.console import Console

    from distill_ray.stages.locations import Locations
    from distill_ray.stages.run import TrackingIncompleteError, report_path, run_study

    locations = Locations(store, tracking_uri, search_storage, address)
    if out is not None:
        from distill_ray.export import check_exportable
        from distill_ray.resolve import source_of

        check_exportable(loaded.name, source_of(loaded).task, out)  # now, not after a night
    incomplete: TrackingIncompleteError | None = None
    try:
        results = run_study(loaded, locations, Console(file=sys.stdout), verbose=verbose)
    except TrackingIncompleteError as error:
        results, incomplete = error.results, error
    options.show(results, store)
    click.echo(f"report  {masked(store)}/{report_path(loaded)}")
    if tracking_uri is None:
        click.echo(f"MLflow  {options.command('ui', store=store)}")
    else:
        click.echo(f"MLflow  {masked(tracking_uri)}")
    if out is not None:
        export_student(loaded, locations, out)
    if incomplete is not None:
        raise incomplete


@click.command()
@options.study
@click.option(
    "--deep",
    is_flag=True,
    help="Also read all weights, and measure given teachers on the validation split.",
)
@options.verbose(expose_value=False)
def validate(study: str, overrides: tuple[str, ...], deep: bool) -> None:
    """Check a study file and summarise it.

    Problems are listed with their lines, up to 20 at a time: first those of the file, then those
    with the data. Of the data set a few images are opened; if it is not on this machine, only the
    study file is checked.
    """
    loaded = options.load(study, overrides)
    from distill_ray.data.finding import is_elsewhere
    from distill_ray.resolve import data_of, source_of

    sentences = [f"data set {loaded.data.source} is not on this machine, so it was not looked at"]
    if not is_elsewhere(loaded.data.source):
        from distill_ray.data.survey import survey
        from distill_ray.resolve import check_source, image_counts, unlabelled_images

        source = source_of(loaded)
        check_source(loaded, source)
        if loaded.search.limits:
            from distill_ray.search.costs import CostMeter
            from distill_ray.store import Store

            CostMeter(loaded, data_of(loaded), Store.at(".")).check(measuring=False)
        counts = image_counts(loaded, source)
        crops_whole = {
            augmentation.name: augmentation.crops_whole
            for augmentation in loaded.trained_augmentations
        }
        sentences = survey(source, loaded.data.size, loaded.data.resize, counts, crops_whole)
        if loaded.data.unlabelled is not None:
            images = unlabelled_images(loaded, source)
            sentences.append(f"{images:,} images without labels, from {loaded.data.unlabelled}")
        if not source.real_valued and source.reopens:
            look = options.command("data", "check", loaded.data.source, store=options.DEFAULT_STORE)
            sentences.append(f"{look} looks at all of them")
    teachers = []
    if deep:
        from distill_ray.imported_weights import check_weights
        from distill_ray.stages.given_teachers import MAY_HAVE_SEEN, given_teachers

        check_weights(loaded, source_of(loaded))
        teachers = given_teachers(loaded, data_of(loaded))
    click.echo(f"{study}: valid")
    for sentence in sentences:
        click.echo(f"  {for_terminal(sentence)}")
    for line in _summary(loaded):
        click.echo(f"  {line}")
    for line in itertools.chain.from_iterable(teacher.lines() for teacher in teachers):
        click.echo(f"  {for_terminal(line)}")
    if teachers:
        click.echo(f"  {MAY_HAVE_SEEN}")


@click.command()
@options.study
@options.locations
@click.option(
    "--on",
    metavar="[COUNTx]NAME",
    help="Plan for other machines, as many as COUNT, or GPUs, measured there by `bench --name`.",
)
@click.option(
    "--price",
    type=click.FloatRange(0),
    metavar="PER_HOUR",
    help="What an hour costs of this machine, or of each of those that --on names.",
)
@options.verbose(expose_value=False)
def plan(
    study: str,
    overrides: tuple[str, ...],
    store: str,
    tracking_uri: str | None,
    search_storage: str | None,
    on: str | None,
    price: float | None,
) -> None:
    """Estimate jobs, images and time without running the study.

    The time on this machine is estimated from a few training steps, which are not kept. What would
    keep `run` from starting is said here too.

    \b
    Examples:
      distill-ray plan my.yaml
      distill-ray plan my.yaml --on 8xh100 --price 2.5
    """
    loaded = options.load(study, overrides)
    from distill_ray.execution.cluster import Cluster
    from distill_ray.planning.bench_record import bench_elsewhere
    from distill_ray.planning.plan import plan_study
    from distill_ray.report.format import duration
    from distill_ray.search.warm_start import earlier_trials, note_of_earlier_versions
    from distill_ray.stages.locations import Locations
    from distill_ray.stages.request import check_request

    state = check_request(loaded, Locations(store, tracking_uri, search_storage))
    known = len(earlier_trials(loaded, state.store, search_storage))
    elsewhere = None if on is None else bench_elsewhere(state.store, state.study, on)
    stages = plan_study(state, elsewhere)
    click.echo(f"{'stage':<8} {'jobs':>6} {'done':>6} {'images':>12} {'time':>9}")
    for stage in stages:
        counts = f"{stage.stage:<8} {stage.jobs:>6} {stage.done:>6} {stage.images:>12,}"
        click.echo(f"{counts} {duration(stage.seconds):>9}")
    for stage in stages:
        for logits in stage.teacher_logits:
            methods = f" ({', '.join(logits.methods)})" if len(stage.teacher_logits) > 1 else ""
            click.echo(f"{stage.stage}{methods}: {_teacher_logits(logits)}")
    if any(run.job.takes_weights and state.record(run) for run in state.teachers):
        from distill_ray.stages.given_teachers import given_teachers

        for teacher in given_teachers(state.study, state.data, state.store, state.record_of):
            for line in teacher.lines():
                click.echo(for_terminal(line))
    if known:
        sources = for_terminal(", ".join(loaded.search.warm_start))
        click.echo(f"search: warm-started with {known} trials of {sources}")
    if note := note_of_earlier_versions(
        state.study, state.data, state.teacher_ids, state.store, search_storage
    ):
        click.echo(note)
    for line in _totals(stages, elsewhere, price):
        click.echo(line)
    if elsewhere is None:
        try:
            Cluster().check_machine(loaded)
        except RequestError as error:
            click.echo(f"it needs a cluster (`run --address`): {error}")


def _totals(
    stages: Sequence[StagePlan], elsewhere: Elsewhere | None, price: float | None
) -> Iterator[str]:
    """How long it all takes, what early stopping probably saves of that, and what it costs."""
    from distill_ray.report.format import duration

    if all(stage.done == stage.jobs for stage in stages):
        yield "nothing is left to train"
        return
    longest = sum(stage.seconds for stage in stages)
    likely = sum(stage.likely_seconds for stage in stages)
    where = "this machine" if elsewhere is None else str(elsewhere)
    shares = [stage.trained_share for stage in stages if stage.trained_share is not None]
    if shares:
        yield f"early stopping: probably {100 * shares[0]:.0f} % of the search's epochs are trained"
        yield f"about {duration(likely)} on {where}, without early stopping {duration(longest)}"
    else:
        yield f"about {duration(longest)} on {where}"
    if price is not None:
        hours = likely / 3600 * (1 if elsewhere is None else elsewhere.count)
        device = "machine" if elsewhere is None or not elsewhere.on_gpus else "GPU"
        yield f"{hours:.3g} {device} hours, {hours * price:.2f} at {price:g} an hour"


def _teacher_logits(plan: TeacherLogitsPlan) -> str:
    """What the teachers' logits cost a stage, cached or live."""
    from distill_ray.report.format import duration

    if plan.live_for:
        return (
            f"teachers run in every step, as {plan.live_for} takes more from them than logits that "
            f"could be cached: {duration(plan.live_seconds)} over all jobs"
        )
    if plan.pays_from < math.inf:
        cheaper = f"caching is cheaper from {plan.pays_from:g} jobs on"
    else:
        cheaper = "no two jobs share them"
    return (
        f"teacher logits {'cached' if plan.stored else 'live'}; "
        f"cached: {duration(plan.seconds)} once and {plan.bytes / 1e6:,.0f} MB on disk, "
        f"live: {duration(plan.live_seconds)} over all jobs; {cheaper}"
    )


def _summary(study: StudyDefinition) -> Iterator[str]:
    """What the study asks for, in a few lines."""
    from distill_ray.report.format import counted

    yield f"study     {study.name}, digest {study.digest}"
    for group in study.teachers:
        recipe = group.recipe
        training = f"{counted(recipe.epochs, 'epoch')}, {recipe.augmentation.name}"
        if recipe.weights is not None:
            start = "as it is" if recipe.epochs == 0 else f"fine-tuned, {training}"
            training = f"from {group.source or recipe.weights}, {start}"
        calibrated = ", calibrated" if group.calibrate else ""
        known = f"{recipe.model}, {training}"
        if recipe.answers_alone:
            known = f"known by the answers of {recipe.weights}"
        yield f"teachers  {len(group.seeds)} x {known}{calibrated}{_fine_tuning(recipe)}"
    student = study.student
    start = "" if student.weights is None else f", from weights {student.weights}"
    versions = "" if student.versions is None else f", {student.versions} versions of each image"
    yield (
        f"student   {student.model}, {student.method.name}, {counted(student.epochs, 'epoch')}"
        f"{start}{_fine_tuning(student)}{versions}"
    )
    if study.screen is not None:
        kept = f", the best {study.screen.keep} are searched" if study.screen.keep else ""
        yield f"screen    {len(study.screen.candidates)} augmentations by T. stddev{kept}"
    search = study.search
    objectives = ", ".join(f"{name} {direction}" for name, direction in search.objectives.items())
    stopping = "no early stopping" if search.scheduler is None else search.scheduler.name
    yield (
        f"search    {counted(search.trials, 'trial')} by {search.chosen_sampler}, {stopping}, "
        f"{objectives}"
    )
    for line in _about_search(study):
        yield f"          {line}"
    for dimension in search.space.dimensions:
        when = " and ".join(
            f"{other.field} is {' or '.join(map(str, other.labels))}" for other in dimension.when
        )
        condition = f" when {when}" if when else ""
        yield f"          {dimension.name}: {dimension.described()}{condition}"
    confirmed = ", ".join(
        [f"best {study.confirm.top}", *study.confirm.baselines, *study.confirm.ensembles]
    )
    yield f"confirm   {confirmed}; {counted(study.confirm.seeds, 'seed')} each"


def _fine_tuning(recipe: Recipe) -> str:
    """What keeps weights from a file as they are."""
    from distill_ray.report.format import counted

    frozen = f", frozen for {counted(recipe.freeze, 'epoch')}" if recipe.freeze else ""
    decay = "" if recipe.layer_decay is None else f", layer decay {recipe.layer_decay:g}"
    return frozen + decay


def _about_search(study: StudyDefinition) -> Iterator[str]:
    """What bounds or guides the search, as far as the study says so."""
    from distill_ray.report.format import counted, duration, settings

    search = study.search
    if search.for_each is not None:
        yield f"a search of its own for each {search.for_each}"
    if search.limits:
        yield f"at most {', '.join(f'{name} {most:g}' for name, most in search.limits.items())}"
    if search.prior:
        yield f"around {settings(search.prior)} at first"
    if search.try_first:
        yield f"beginning with {counted(len(search.try_first), 'configuration')} of the study file"
    if search.warm_start:
        yield f"warm-started from {' and '.join(search.warm_start)}"
    if search.stop is not None:
        yield f"until {counted(search.stop.patience, 'trial')} in a row improve nothing"
    budget = search.budget
    if budget is not None and budget.epochs is not None:
        yield f"until {counted(budget.epochs, 'epoch')} are spent"
    if budget is not None and budget.gpu_hours is not None:
        yield f"until {budget.gpu_hours:g} GPU hours are spent"
    if budget is not None and budget.kwh is not None:
        yield f"until {budget.kwh:g} kWh are spent"
    if search.time_limit is not None:
        yield f"until {duration(search.time_limit)} are over"
    if search.study_time_limit is not None:
        yield f"so that the study ends within {duration(search.study_time_limit)}"
