"""Studies from Python, in a notebook or a script: what the command line does, in a few lines.

Example::

    from distill_ray import Study

    study = Study.load("studies/quickstart.yaml", "search.trials=4")
    results = study.run()
    results  # the table
    results.trials().to_pandas()
    results.plots["history-val-nll"]
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill_ray import study as studies
from distill_ray.stages import DEFAULT_STORE

if TYPE_CHECKING:
    import pyarrow as pa

    from distill_ray.export import Exported
    from distill_ray.planning.plan import StagePlan
    from distill_ray.report.page import Report
    from distill_ray.report.plots.drawing import Plot
    from distill_ray.report.results import StudyResults


@dataclass(frozen=True)
class Study:
    """A study file, read and checked. `definition` has every field of it, with all defaults filled
    in.

    Its methods take a `store`, a folder or a pyarrow file system URI, and where it is not in the
    store the `tracking_uri` of MLflow and the `search_storage` of Optuna. They raise what the
    command line prints: `RequestError` for an invalid request, `RunError` for a failure (both in
    `distill_ray.errors`).
    """

    definition: studies.StudyDefinition

    @classmethod
    def load(cls, path: str | Path, *overrides: str, store: str = DEFAULT_STORE) -> Study:
        """The study in file `path`, with fields replaced as by `--set`: `Study.load("my.yaml",
        "search.trials=4")`. Teachers that it takes `from` earlier studies are found in `store`.

        Raises `RequestError` with a line for everything that is wrong with it.
        """

        def earlier(source: str) -> dict[str, Any]:
            # Torch and pyarrow, which studies without such teachers do not need
            from distill_ray.imported_weights import network_from

            return network_from(source, store)

        return cls(studies.load_study(path, overrides, earlier))

    def plan(
        self,
        store: str = DEFAULT_STORE,
        *,
        tracking_uri: str | None = None,
        search_storage: str | None = None,
    ) -> list[StagePlan]:
        """What it would train, and about how long that takes on this machine, stage by stage,
        without running it.
        """
        from distill_ray.planning.plan import plan_study
        from distill_ray.stages.locations import Locations
        from distill_ray.stages.request import check_request

        locations = Locations(store, tracking_uri, search_storage)
        return plan_study(check_request(self.definition, locations))

    def run(
        self,
        store: str = DEFAULT_STORE,
        *,
        tracking_uri: str | None = None,
        search_storage: str | None = None,
        address: str | None = None,
    ) -> Results:
        """Run what is missing of the study, on the Ray cluster at `address` or on one that is
        started here.
        """
        from rich.console import Console

        from distill_ray.stages.locations import Locations
        from distill_ray.stages.run import TrackingIncompleteError, run_study

        locations = Locations(store, tracking_uri, search_storage, address)
        try:
            return Results(run_study(self.definition, locations, Console()))
        except TrackingIncompleteError as error:
            warnings.warn(str(error), stacklevel=2)
            return Results(error.results)

    def results(
        self,
        store: str = DEFAULT_STORE,
        *,
        tracking_uri: str | None = None,
        search_storage: str | None = None,
    ) -> Results:
        """The results so far, finished or not; nothing is run."""
        from distill_ray.stages.collect import load_results
        from distill_ray.stages.locations import Locations

        results, _, _ = load_results(
            self.definition, Locations(store, tracking_uri, search_storage)
        )
        return Results(results)

    def export(
        self,
        folder: str | Path,
        *,
        format: str = "safetensors",
        calibrated: bool = True,
        license: str = "unknown",
        store: str = DEFAULT_STORE,
        search_storage: str | None = None,
    ) -> Exported:
        """Write the best student into a new folder, checked and with its model card, which names
        the `license`.

        `format` is one of safetensors, torch-export, onnx and mlflow. Unless it is `calibrated`,
        the temperature that calibrates its probabilities is left out.
        """
        from distill_ray.export import export_champion
        from distill_ray.stages.collect import load_results
        from distill_ray.stages.locations import Locations

        results, data, opened = load_results(
            self.definition, Locations(store, None, search_storage)
        )
        return export_champion(
            results,
            opened,
            data,
            Path(folder),
            format=format,
            calibrated=calibrated,
            license=license,
        )


@dataclass(frozen=True, eq=False, repr=False)
class Results:
    """The results of a study as tables and figures. `collected` holds all of them, predictions of
    every sample included.

    Tables are pyarrow's: `to_pandas()` returns a data frame, `to_pylist()` plain values. Metrics in
    them are fractions and nats.
    """

    collected: StudyResults

    def table(self) -> pa.Table:
        """A row per contender: `name`, `label`, `runs`, `parameters`, and for each metric the mean
        and, as `<metric>_std`, the sample standard deviation over its runs.
        """
        from distill_ray.report.arrow import contenders

        return contenders(self.report.rows)

    def runs(self) -> pa.Table:
        """A row per contender and seed: `name`, `seed`, `job`, and every metric; `seed` is null for
        the ensemble.
        """
        from distill_ray.report.arrow import runs

        return runs(self.report.rows)

    def trials(self) -> pa.Table:
        """A row per trial: `trial`, `state`, the objectives, the settings that it drew, `seconds`,
        `job` and `reason`.
        """
        from distill_ray.report.arrow import trials

        return trials(self.collected)

    def epochs(self) -> pa.Table:
        """A row per trial and epoch with every metric that was recorded: `trial`, `epoch`,
        `val/nll`, `train/loss` and so on.
        """
        from distill_ray.report.arrow import epochs

        return epochs(self.collected)

    @property
    def plots(self) -> Mapping[str, Plot]:
        """The figures of the report by name. A notebook shows one that ends a cell; its `figure` is
        matplotlib's.
        """
        return {
            plot.name: plot
            for panels in self.report.sections.values()
            for panel in panels
            for plot in panel.plots
        }

    @cached_property
    def report(self) -> Report:
        """The report: `html()` is the page, `rows` the table, `compared` the tests of the best
        student against the others.
        """
        from distill_ray.report.page import Report

        return Report.of(self.collected)

    def __repr__(self) -> str:
        from distill_ray.report.table import as_text

        rows = self.report.rows
        table = as_text(rows) if rows else "no results yet"
        return f"study {self.collected.name}, {self.collected.status}\n\n{table}"

    def _repr_markdown_(self) -> str:
        from distill_ray.report.table import as_markdown

        rows = self.report.rows
        table = as_markdown(rows) if rows else "no results yet"
        return f"**{self.collected.name}**, {self.collected.status}\n\n{table}"
