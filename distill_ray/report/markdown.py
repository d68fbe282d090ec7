"""The report in Markdown: short enough for an issue, a pull request or the description of a run."""

from __future__ import annotations

from collections.abc import Sequence

from distill_ray.escaping import code_block, for_markdown
from distill_ray.report import published
from distill_ray.report.cautions import cautions
from distill_ray.report.comparison import Comparison
from distill_ray.report.format import counted, duration, energy
from distill_ray.report.results import StageRow, StudyResults
from distill_ray.report.screening import (
    measured_text,
    relation_sentence,
    relations,
    search_decision,
)
from distill_ray.report.search import warm_start_text
from distill_ray.report.summary import best_settings, differences_text, headline, verdict
from distill_ray.report.table import Row, as_markdown, markdown_table


def markdown(results: StudyResults, rows: list[Row], compared: Sequence[Comparison]) -> str:
    """The answer, the table, the stages and how to run it again."""
    parts = [
        f"# {for_markdown(results.name)}: distillation study ({results.status})",
        answer_in_markdown(results, rows, compared),
        "\n".join(map(_against, compared)),
        as_markdown(rows) if rows else "",
        _published(results, rows),
        _screening(results, rows),
        for_markdown(warm_start_text(results)),
        for_markdown(", ".join(map(_stage, results.stages))),
        code_block(results.command, "sh") if results.command else "",
        code_block(results.study_file, "yaml"),
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def answer_in_markdown(
    results: StudyResults, rows: Sequence[Row], compared: Sequence[Comparison]
) -> str:
    """The headline, the settings of the best student, and what makes the results doubtful."""
    found = best_settings(results)
    sentences = headline(results, rows, compared)
    answer = for_markdown(" ".join([*sentences, *([f"Settings: {found}."] if found else [])]))
    doubts = [f"**Caution**: {for_markdown(each)}" for each in cautions(rows)]
    return "\n\n".join([answer, *doubts])


def _against(comparison: Comparison) -> str:
    label, differences = comparison.other.label, differences_text(comparison)
    return f"- {for_markdown(f'against {label}: {differences}')}: **{verdict(comparison).words}**"


def _published(results: StudyResults, rows: Sequence[Row]) -> str:
    if results.published is None:
        return ""
    return published.as_markdown(published.side_by_side(results.published, rows))


def _screening(results: StudyResults, rows: Sequence[Row]) -> str:
    if not results.screening:
        return ""
    table = markdown_table(
        ("augmentation", "T. stddev", "in the search"),
        *(
            (row.augmentation, measured_text(row), search_decision(row))
            for row in results.screening
        ),
    )
    sentences = [f"- {for_markdown(relation_sentence(each))}" for each in relations(results, rows)]
    return "\n\n".join(["## Screening", table, "\n".join(sentences)])


def _stage(stage: StageRow) -> str:
    used = "" if stage.joules is None else f", {energy(stage.joules)}"
    jobs = f"{counted(stage.done, 'job')} trained, {stage.reused} reused"
    return f"{stage.stage} {duration(stage.seconds)} ({jobs}{used})"
