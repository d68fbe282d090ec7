"""The report as one HTML page that needs nothing else: styles and figures are inside, and nothing
is fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from distill_ray.escaping import lines_for_terminal, without_controls
from distill_ray.metric import METRICS, title_of
from distill_ray.report import conformal, format, summary
from distill_ray.report.bins import bin_remarks
from distill_ray.report.cautions import cautions
from distill_ray.report.comparison import Comparison, comparisons
from distill_ray.report.conformal import ConformalRow
from distill_ray.report.front import front_sentences
from distill_ray.report.health import findings
from distill_ray.report.per_sample import LEVEL
from distill_ray.report.plots.calibration import calibration_panels
from distill_ray.report.plots.classes import class_panel
from distill_ray.report.plots.diversity import diversity_panels
from distill_ray.report.plots.drawing import PALETTE, Panel, contender_colors, for_page
from distill_ray.report.plots.gains import SHOWN, gain_panel
from distill_ray.report.plots.ranks import ranks_panels
from distill_ray.report.plots.screening import screen_panel
from distill_ray.report.plots.selective import selective_panel
from distill_ray.report.plots.trials import search_panels
from distill_ray.report.published import SideBySide, side_by_side
from distill_ray.report.ranks import Ranks, loss_or_weight, ranks_of
from distill_ray.report.ranks import table as ranks_table
from distill_ray.report.results import StudyResults
from distill_ray.report.screening import (
    Relation,
    interval_text,
    measured_text,
    relation_sentence,
    relations,
    search_decision,
    tie_sentence,
)
from distill_ray.report.search import best_trial, warm_start_text
from distill_ray.report.selection import selection, selection_sentences
from distill_ray.report.table import Row, columns, legend
from distill_ray.report.uncertainty import LEGEND, SEPARATION, foreign_rows, tables

DETAILS = {
    "calibration": ("ece", "adaptive-ece", "debiased-ece", "classwise-ece"),
    "selective": ("aurc", "excess-aurc", "accuracy-at-80", "accuracy-at-90", "accuracy-at-95"),
    "classes": ("accuracy", "balanced-accuracy", "macro-f1"),
}
"""The metrics that a section shows in a table of its own."""


@dataclass(frozen=True, eq=False)
class Report:
    """Everything that is computed and drawn once for all forms of a report."""

    results: StudyResults
    rows: list[Row]
    compared: list[Comparison]
    sections: dict[str, list[Panel]]
    drawings: dict[str, str]
    screened: list[Relation]
    published: SideBySide | None
    conformal: list[ConformalRow]
    ranked: list[Ranks]

    @classmethod
    def of(cls, results: StudyResults) -> Report:
        """Compute the table and the comparisons of `results`, and draw the figures."""
        rows = results.rows
        compared = comparisons(rows)
        classifiers = [row for row in rows if row.task == "classification"]
        screened = relations(results, rows)
        ranked = ranks_of({results.name: rows})
        sections = {
            "ranks": ranks_panels(ranked),
            "screen": _present(screen_panel(screened)),
            "gains": _present(gain_panel(compared, results.contenders)),
            "search": search_panels(results),
            "calibration": calibration_panels(classifiers),
            "diversity": diversity_panels(classifiers),
            "selective": _present(selective_panel(classifiers)),
            "classes": _present(class_panel(results.class_names, classifiers)),
        }
        plots = [plot for panels in sections.values() for panel in panels for plot in panel.plots]
        published = None if results.published is None else side_by_side(results.published, rows)
        return cls(
            results,
            rows,
            compared,
            sections,
            {plot.name: plot.svg() for plot in plots},
            screened,
            published,
            conformal.conformal_rows(rows, results.coverage),
            ranked,
        )

    def html(self) -> str:
        """The page."""
        environment = Environment(
            autoescape=True,
            finalize=_visible,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.globals |= {
            name: getattr(format, name)
            for name in (
                "counted",
                "duration",
                "energy",
                "metric_text",
                "objective_title",
                "parameter_count",
                "setting",
                "settings",
            )
        }
        environment.globals |= {
            "verdict": summary.verdict,
        }
        template = environment.from_string(
            files(__package__).joinpath("page.html.j2").read_text("utf-8")
        )
        best, metrics = best_trial(self.results), columns(self.rows)
        page = template.render(
            results=self.results,
            rows=self.rows,
            screened=[relation_sentence(relation) for relation in self.screened],
            measured_text=measured_text,
            interval_text=interval_text,
            tie_sentence=tie_sentence(self.results.screening),
            search_decision=search_decision,
            published=self.published,
            compared=self.compared,
            sections=self.sections,
            drawings={name: Markup(for_page(svg, name)) for name, svg in self.drawings.items()},
            headline=[
                *summary.headline(self.results, self.rows, self.compared),
                *front_sentences(self.results),
            ],
            findings=findings(self.results, self.rows, self.compared),
            cautions=cautions(self.rows),
            facts=summary.facts(self.rows),
            best_settings=summary.best_settings(self.results),
            leaders=_leaders(self.rows),
            legend=legend(self.rows),
            calibrated_sentence=summary.calibrated_sentence(self.results),
            warm_start=warm_start_text(self.results),
            selected=selection(self.results),
            selection_sentences=selection_sentences(self.results),
            best_trial=None if best is None else best.number,
            searched=list(
                dict.fromkeys(name for trial in self.results.trials for name in trial.params)
            ),
            colors={
                name: _variable(shade)
                for name, shade in contender_colors(self.results.contenders).items()
            },
            palette=PALETTE,
            metrics=metrics,
            details={
                section: [name for name in names if any(name in row.cells for row in self.rows)]
                for section, names in DETAILS.items()
            },
            bin_remarks=bin_remarks(self.rows),
            ranked=self.ranked,
            ranks_table=ranks_table(self.ranked),
            loss_or_weight=loss_or_weight(self.results, self.rows),
            conformal=self.conformal,
            conformal_titles=conformal.TITLES,
            conformal_note=conformal.note(self.conformal, self.results.coverage),
            foreign=tables(foreign_rows(self.results), SEPARATION),
            foreign_legend=LEGEND,
            shown_gains=[name for name in SHOWN if name in metrics],
            titles={name: metric.title for name, metric in METRICS.items()},
            meanings={name: metric.meaning for name, metric in METRICS.items()},
            percent=[name for name, metric in METRICS.items() if metric.percent],
            better=_better(metrics),
            level=f"{LEVEL:.0%}".replace("%", " %"),
        )
        return without_controls(page)


def _visible(value: object) -> object:
    """Control characters of texts written out; markup of our own stays."""
    return lines_for_terminal(value) if type(value) is str else value


def _present(panel: Panel | None) -> list[Panel]:
    return [] if panel is None else [panel]


def _leaders(rows: Sequence[Row]) -> dict[str, str]:
    """The contender with the best mean of each metric among single networks."""
    single = [row for row in rows if not row.contender.averaged]
    leaders = {}
    for metric in METRICS:
        having = [row for row in single if metric in row.cells]
        if len(having) > 1:
            choose = max if METRICS[metric].better == "max" else min
            leaders[metric] = choose(having, key=lambda row: row.cells[metric].mean).contender.name
    return leaders


def _better(metrics: Sequence[str]) -> str:
    """Which way is better."""
    higher = format.listed([title_of(name) for name in metrics if METRICS[name].better == "max"])
    if not higher:
        return "Everything is better when lower."
    return f"Better when higher: {higher}; everything else when lower."


def _variable(shade: str) -> str:
    return next(f"var(--{name})" for name, (light, _) in PALETTE.items() if light == shade)
