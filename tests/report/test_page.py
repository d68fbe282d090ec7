"""The page and the files of a report."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from distill_ray.events import JobState
from distill_ray.records import Predictions
from distill_ray.report.markdown import markdown
from distill_ray.report.page import Report
from distill_ray.report.plots.drawing import PALETTE
from distill_ray.report.results import StudyResults, TrialRow
from distill_ray.report.write import write_report

SUPPORT = Path(__file__).parents[1] / "support"

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """The elements and text of a page; fails on tags that do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        values = dict(attrs)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.links += [
            value for name in ("href", "src", "xlink:href") if (value := values.get(name))
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def written(study: StudyResults, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_report(study, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(written: list[Path]) -> Page:
    return Page(written[0].read_text("utf-8"))


def test_files(written: list[Path]) -> None:
    assert [path.name for path in written[:3]] == ["report.html", "report.json", "report.md"]
    plots = {path.stem for path in written[3:]}
    assert {
        "gain-accuracy",
        "history-val-nll",
        "slice-1-temperature",
        "curves-val-nll",
        "reliability-5-best",
        "class-errors",
    } <= plots
    assert all(
        path.parent.name == "plots" and path.stat().st_size < 100_000 for path in written[3:]
    )
    assert written[0].stat().st_size < 1_000_000
    assert json.loads(written[1].read_text())["comparisons"][0]["against"] == "ensemble"


def test_page_needs_nothing_else(page: Page) -> None:
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert page.links
    assert all(link.startswith("#") for link in page.links)
    assert "secret" not in page.text


def test_links_and_labels_lead_somewhere(page: Page, written: list[Path]) -> None:
    assert [name for name, count in Counter(page.ids).items() if count > 1] == []
    html = written[0].read_text("utf-8")
    named = [
        name for group in re.findall(r'aria-labelledby="([^"]*)"', html) for name in group.split()
    ]
    used = (
        [link.removeprefix("#") for link in page.links]
        + re.findall(r"url\(#([^)]*)\)", html)
        + named
    )
    assert set(used) <= set(page.ids)
    assert page.tags["svg"] == len(written) - 3 == html.count('role="img"')


def test_page_answers_first_and_says_everything(page: Page) -> None:
    text = " ".join(page.text.split())
    text = text[text.index("How to reproduce it") + 20 :]  # after the links to the sections
    order = [
        "The search found a student that is better than default KD",
        "Best student against",
        "The table",
        "All 12 trials",
        "Calibration",
        "How to reproduce it",
    ]
    assert sorted(order, key=text.index) == order
    for said in (
        "95.82",
        "better in accuracy and NLL",
        "loss became NaN in epoch 3",
        "distill-ray run studies/quickstart.yaml",
        "torch 2.15.0",
    ):
        assert said in text
    assert page.tags["figcaption"] == page.tags["figure"] >= 6


def test_every_figure_has_a_caption_that_says_what_to_see(study: StudyResults) -> None:
    panels = [panel for section in Report.of(study).sections.values() for panel in section]
    assert len(panels) > 8
    assert all(
        panel.title and len(panel.caption) > 80 and panel.caption.endswith(".") for panel in panels
    )


def test_energy_stands_beside_the_time_where_devices_report_it(study: StudyResults) -> None:
    assert "energy" not in Page(Report.of(replace(study, contenders=())).html()).text
    stages = (replace(study.stages[0], joules=12_345.0), *study.stages[1:])
    measured = Report.of(replace(study, contenders=(), stages=stages))
    assert "12.3 kJ" in Page(measured.html()).text
    assert "3 jobs trained, 0 reused, 12.3 kJ" in markdown(measured.results, [], [])


def test_figures_follow_the_page_in_the_dark_and_are_white_alone(written: list[Path]) -> None:
    html = written[0].read_text("utf-8")
    drawings = html[html.index("<svg") : html.rindex("</svg>")]
    assert not any(light in drawings for light, _ in PALETTE.values())
    assert not re.search(r"(?:fill|stroke): ?#", drawings)
    for path in written[3:]:
        document = path.read_text("utf-8")
        root = ElementTree.fromstring(document)
        assert root.find("{http://www.w3.org/2000/svg}title") is not None
        assert "var(--" not in document
        assert PALETTE["surface"][0] in document


def test_same_results_give_the_same_page(study: StudyResults, tmp_path: Path) -> None:
    """In a process of its own too, which hashes strings otherwise."""
    small = replace(study, trials=(), contenders=study.contenders[3:])
    (tmp_path / "results").write_bytes(pickle.dumps(small))
    command = [sys.executable, SUPPORT / "page.py", tmp_path / "results"]
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert done.stdout.decode() == Report.of(small).html()


def test_everything_is_escaped(study: StudyResults) -> None:
    bad = "<script>alert('x')</script> & \"$x$"
    trial = replace(study.trials[0], params={bad: bad, "lr": 0.1}, reason=bad)
    hostile = replace(
        study,
        name=bad,
        study_file=bad,
        command=bad,
        machine=bad,
        data=bad,
        class_names=(bad,) * 10,
        versions={bad: bad},
        trials=(
            trial,
            replace(trial, number=1, params={bad: "other", "lr": 0.2}),
            *study.trials[2:5],
        ),
        contenders=tuple(
            replace(each, label=bad, params={bad: bad}) for each in study.contenders[3:]
        ),
        stages=tuple(replace(stage, stage=bad) for stage in study.stages),
    )
    html = Report.of(hostile).html()
    page = Page(html)
    assert "script" not in page.tags
    assert "<script" not in html
    assert page.text.count("<script>alert") >= 10


@pytest.mark.parametrize(
    "name", ["\x1b[31mred\x1b[0m", "a\x00b\ufffe", "<img src=x>&\ud800", "\u202egnp"]
)
def test_names_of_classes_leave_the_figures_well_formed(
    study: StudyResults, tmp_path: Path, name: str
) -> None:
    hostile = replace(
        study, class_names=(name, *study.class_names[1:]), trials=(), name="x", study_file=name
    )
    files = write_report(hostile, tmp_path)
    document = (tmp_path / "plots" / "class-errors.svg").read_text("utf-8")
    ElementTree.fromstring(document)
    for file in files:
        assert not set(file.read_text("utf-8")) & set("\x00\x1b\u202e")


def test_half_finished_and_empty_studies(study: StudyResults, young_study: StudyResults) -> None:
    text = Page(Report.of(young_study).html()).text
    assert "Nothing is confirmed" in text
    assert "running" in text
    assert "Best student against" not in text
    empty = replace(
        young_study,
        stages=(),
        trials=(),
        contenders=(),
        class_names=(),
        versions={},
        git_commit=None,
        command="",
    )
    assert "No network has been evaluated yet." in Page(Report.of(empty).html()).text
    begun = replace(
        empty,
        trials=(
            TrialRow(0, JobState.RUNNING, {"lr": 0.1}),
            TrialRow(1, JobState.FAILED, {"lr": 0.2}, reason="out of memory"),
        ),
    )
    assert "out of memory" in Page(Report.of(begun).html()).text


def test_several_objectives_have_their_trade_off(study: StudyResults) -> None:
    rng = np.random.default_rng(3)
    trials = tuple(
        replace(
            trial,
            values=dict(trial.values) | {"val/ece": float(rng.uniform(0.01, 0.1))}
            if trial.values
            else {},
        )
        for trial in study.trials
    )
    report = Report.of(
        replace(
            study, objectives={"val/nll": "min", "val/ece": "min"}, trials=trials, contenders=()
        )
    )
    assert {"history-val-nll", "history-val-ece", "pareto-val-ece"} <= set(report.drawings)
    assert "Trade-off between the objectives" in report.html()


def test_infinite_values_do_not_stop_the_report(study: StudyResults) -> None:
    best = study.contenders[-1]
    logs = best.test[0].log_probabilities.copy()
    logs[0] = -np.inf
    logs[0, (best.test[0].labels[0] + 1) % 10] = 0.0
    certain = replace(best, test=(Predictions(logs, best.test[0].labels), *best.test[1:]))
    diverged = replace(study.trials[0], values={"val/nll": float("inf")})
    report = Report.of(
        replace(
            study, trials=(diverged, study.trials[1]), contenders=(study.contenders[2], certain)
        )
    )
    assert "inf" in report.html()


def test_an_earlier_reports_figures_do_not_stay(young_study: StudyResults, tmp_path: Path) -> None:
    write_report(replace(young_study, trials=()), tmp_path)
    assert list(tmp_path.glob("plots/reliability-*.svg"))
    later = write_report(replace(young_study, trials=(), contenders=()), tmp_path)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(later)
