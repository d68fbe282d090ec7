"""The report in Markdown: short enough for an issue, a pull request or the description of a run."""

from __future__ import annotations

from collections.abc import Sequence

from distill_ray.metric import is_percent, title_of
from distill_ray.report import published
from distill_ray.report.comparison import Comparison
from distill_ray.report.format import counted, duration, energy
from distill_ray.report.results import StudyResults
from distill_ray.report.screening import fate, measured_text, relations, said
from distill_ray.report.search import warm_start_text
from distill_ray.report.summary import JUDGED, found_settings, lead, verdict
from distill_ray.report.table import Row, as_markdown, figure_of


def markdown(results: StudyResults, rows: list[Row], compared: Sequence[Comparison]) -> str:
    """The answer, the table, the stages and how to run it again."""
    found = found_settings(results)
    parts = [
        f"# {_inline(results.name)}: distillation study ({results.status})",
        lead(results, rows) + (f" Settings: {_inline(found)}." if found else ""),
        "\n".join(
            f"- against {_inline(each.other.label)}: {_differences(each)}: **{verdict(each).words}**"
            for each in compared
        ),
        as_markdown(rows) if rows else "",
        ""
        if results.published is None
        else published.as_markdown(published.side_by_side(results.published, rows)),
        _screening(results, rows),
        _inline(warm_start_text(results)),
        ", ".join(
            f"{stage.stage} {duration(stage.seconds)} ({counted(stage.done, 'job')} trained, {stage.reused} reused"
            f"{'' if stage.joules is None else f', {energy(stage.joules)}'})"
            for stage in results.stages
        ),
        _block(results.command, "sh") if results.command else "",
        _block(results.study_file, "yaml"),
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _screening(results: StudyResults, rows: list[Row]) -> str:
    if not results.screening:
        return ""
    lines = [["augmentation", "T. stddev", "in the search"], ["---", "---:", "---"]]
    lines += [
        [_inline(row.augmentation), measured_text(row), fate(row)] for row in results.screening
    ]
    written = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join(
        [
            "## Screening",
            written,
            "\n".join(f"- {said(relation)}" for relation in relations(results, rows)),
        ]
    )


def _differences(compared: Comparison) -> str:
    gains = [compared.gains[metric] for metric in JUDGED if metric in compared.gains]
    return ", ".join(
        f"{title_of(gain.metric)} {figure_of(gain.metric, gain.difference, sign=True)}{' points' * is_percent(gain.metric)}"
        for gain in gains
    )


def _inline(text: str) -> str:
    """Text that Markdown takes for nothing else."""
    special = "\\`*_[]<>#|"
    return "".join(
        f"\\{letter}" if letter in special else letter for letter in " ".join(text.split())
    )


def _block(text: str, language: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
