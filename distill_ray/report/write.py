"""The report as files: a page to read, tables to paste, data for programs, and every figure."""

from __future__ import annotations

import json
from pathlib import Path

from distill_ray.report.markdown import markdown
from distill_ray.report.page import Report
from distill_ray.report.results import StudyResults
from distill_ray.report.to_json import as_json


def write_report(results: StudyResults, folder: Path) -> list[Path]:
    """Write `report.html`, `report.json`, `report.md` and `plots/*.svg` into `folder`; gives the
    paths in that order.

    Each file appears complete or not at all. Figures of an earlier report that no longer exist are
    removed.
    """
    report = Report.of(results)
    contents = {
        "report.html": report.html(),
        "report.json": json.dumps(
            as_json(results, report.rows, report.compared), indent=1, allow_nan=False
        )
        + "\n",
        "report.md": markdown(results, report.rows, report.compared),
        **{f"plots/{name}.svg": svg for name, svg in report.drawings.items()},
    }
    plots = folder / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    for old in plots.glob("*.svg"):
        if f"plots/{old.name}" not in contents:
            old.unlink()
    paths = []
    for name, content in contents.items():
        path = folder / name
        temporary = path.with_name(f".{path.name}.part")
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(path)
        paths.append(path)
    return paths
