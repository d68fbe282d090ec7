"""Commands that look after a store: sync, gc."""

from __future__ import annotations

import click

from distill_ray.cli import options


@click.command()
@options.study
@options.locations
@options.verbose(expose_value=False)
def sync(
    study: str,
    overrides: tuple[str, ...],
    store: str,
    tracking_uri: str | None,
    search_storage: str | None,
) -> None:
    """Send MLflow what it is missing of a study.

    Nothing is trained. For a study that ran while MLflow was down, or to record it in another
    MLflow.
    """
    loaded = options.load(study, overrides)
    from distill_ray.stages.locations import Locations
    from distill_ray.stages.sync import sync_study

    locations = Locations(store, tracking_uri, search_storage)
    finished = sync_study(loaded, locations)
    state = "" if finished else ", which is not finished"
    click.echo(f"MLflow at {locations.shown_tracking()} has all of study {loaded.name}{state}")


@click.command()
@click.argument("study", metavar="[STUDY]", required=False)
@options.overrides
@options.store
@options.search_storage
@click.option(
    "--unreferenced", is_flag=True, help="Also jobs that no study in the store refers to."
)
@click.option("--yes", is_flag=True, help="Delete it. Without this it is only listed.")
@options.verbose(expose_value=False)
def gc(
    study: str | None,
    overrides: tuple[str, ...],
    store: str,
    search_storage: str | None,
    unreferenced: bool,
    yes: bool,
) -> None:
    """List what no study in the store needs; --yes deletes it.

    Checkpoints of finished and pruned jobs, cached teacher logits, files set aside as damaged,
    leftovers of killed writes, of one study or of all; never what a running or finished study
    needs.

    \b
    Examples:
      distill-ray gc
      distill-ray gc studies/quickstart.yaml --yes
      distill-ray gc --store s3://bucket/studies --unreferenced
    """
    name = None
    if study is None:
        options.announce_loading()
    else:
        name = options.load(study, overrides).name
    from distill_ray.stages.gc import garbage, remove
    from distill_ray.store import Store

    opened = Store.open(store, make=False)
    leftovers = garbage(
        opened, study=name, search_storage=search_storage, unreferenced=unreferenced
    )
    if not leftovers:
        click.echo("nothing to remove")
        return
    for why in dict.fromkeys(leftover.why for leftover in leftovers):
        sizes = [leftover.bytes for leftover in leftovers if leftover.why == why]
        click.echo(f"{len(sizes):>6}  {sum(sizes) / 1e6:>10,.1f} MB  {why}")
    if yes:
        remove(opened, leftovers)
    total = sum(leftover.bytes for leftover in leftovers) / 1e6
    click.echo(f"{total:,.1f} MB {'freed' if yes else 'to free; --yes removes it'}")
