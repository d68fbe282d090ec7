"""The report in Markdown: short enough for an issue, a pull request or the description of a run."""

from __future__ import annotations

from collections.abc import Sequence

from distill_ray.escaping import code_block, for_markdown
from distill_ray.report import published
from distill_ray.report.cautions import cautions
from distill_ray.report.comparison import Comparison
from distill_ray.report.format import counted, duration, energy
from distill_ray.report.front import front_sentences
from distill_ray.report.health import findings
from distill_ray.report.ranks import loss_or_weight, ranks_of
from distill_ray.report.ranks import table as ranks_table
from distill_ray.report.results import StageRow, StudyResults
from distill_ray.report.screening import (
    interval_text,
    measured_text,
    relation_sentence,
    relations,
    search_decision,
    tie_sentence,
)
from distill_ray.report.search import warm_start_text
from distill_ray.report.selection import selection_sentences
from distill_ray.report.summary import (
    best_settings,
    calibrated_sentence,
    differences_text,
    headline,
    verdict,
)
from distill_ray.report.table import Row, as_markdown, markdown_table
from distill_ray.report.uncertainty import foreign_as_markdown, foreign_rows


def markdown(results: StudyResults, rows: list[Row], compared: Sequence[Comparison]) -> str:
    """The answer, the table, the stages and how to run it again."""
    parts = [
        f"# {for_markdown(results.name)}: distillation study ({results.status})",
        answer_in_markdown(results, rows, compared),
        "\n".join(map(_against, compared)),
        as_markdown(rows) if rows else "",
        for_markdown(calibrated_sentence(results)),
        _ranks(results, rows),
        _published(results, rows),
        foreign_as_markdown(foreign_rows(results)),
        _screening(results, rows),
        for_markdown(" ".join([warm_start_text(results), *selection_sentences(results)])),
        for_markdown(", ".join(map(_stage, results.stages))),
        code_block(results.command, "sh") if results.command else "",
        code_block(results.study_file, "yaml"),
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def answer_in_markdown(
    results: StudyResults, rows: Sequence[Row], compared: Sequence[Comparison]
) -> str:
    """The headline, the settings of the best student, and what makes the results doubtful."""
    settings = best_settings(results)
    sentences = [*headline(results, rows, compared), *front_sentences(results)]
    answer = for_markdown(" ".join([*sentences, *([f"Settings: {settings}."] if settings else [])]))
    doubts = [f"**Caution**: {for_markdown(caution)}" for caution in cautions(rows)]
    checks = [
        f"- **{finding.check}**: {for_markdown(finding.sentence)}"
        for finding in findings(results, rows, compared)
    ]
    return "\n\n".join([answer, *doubts, *(["\n".join(checks)] if checks else [])])


def _against(comparison: Comparison) -> str:
    label, differences = comparison.other.label, differences_text(comparison)
    return f"- {for_markdown(f'against {label}: {differences}')}: **{verdict(comparison).words}**"


def _ranks(results: StudyResults, rows: Sequence[Row]) -> str:
    ranked = ranks_of({results.name: rows})
    if not ranked:
        return ""
    header, lines = ranks_table(ranked)
    sentences = [*(ranks.sentence for ranks in ranked), *loss_or_weight(results, rows)]
    answers = "\n".join(f"- {for_markdown(sentence)}" for sentence in sentences)
    return "\n\n".join(["## Ranks", markdown_table(header, *lines), answers])


def _published(results: StudyResults, rows: Sequence[Row]) -> str:
    if results.published is None:
        return ""
    return published.as_markdown(published.side_by_side(results.published, rows))


def _screening(results: StudyResults, rows: Sequence[Row]) -> str:
    if not results.screening:
        return ""
    table = markdown_table(
        ("augmentation", "T. stddev", "95 % interval", "in the search"),
        *(
            (row.augmentation, measured_text(row), interval_text(row), search_decision(row))
            for row in results.screening
        ),
    )
    sentences = [
        f"- {for_markdown(relation_sentence(relation))}" for relation in relations(results, rows)
    ]
    tie = for_markdown(tie_sentence(results.screening))
    return "\n\n".join(filter(None, ["## Screening", table, tie, "\n".join(sentences)]))


def _stage(stage: StageRow) -> str:
    used = "" if stage.joules is None else f", {energy(stage.joules)}"
    jobs = f"{counted(stage.done, 'job')} trained, {stage.reused} reused"
    return f"{stage.stage} {duration(stage.seconds)} ({jobs}{used})"
