"""Reads the section `published`: the table that a paper printed, to stand beside what is measured."""

from __future__ import annotations

import re
from typing import Any

from distill_ray.registry import unknown_name
from distill_ray.study.fields import INVALID, check_value, read_fields, section
from distill_ray.study.problems import Path, Problems, shown
from distill_ray.study.sections import Confirm, Published, PublishedRow, TeacherGroup

PATH: Path = ("published",)
_METRIC = re.compile(r"[A-Za-z][A-Za-z0-9 ._@%-]{0,29}")


def read_published(
    values: Any, problems: Problems, groups: list[TeacherGroup], confirm: Confirm
) -> Published | None:
    """The published section; `None` when there is none."""
    if values is None:
        return None
    given = section(values, PATH, problems)
    read = {"source": "", "difference": ""} | read_fields(
        Published, values, PATH, problems, elsewhere=("rows",)
    )
    for name, what in (
        ("source", "where the table was published"),
        ("difference", "how that experiment differs from this"),
    ):
        if not str(read[name]).strip():
            problems.add((*PATH, name), f"missing; say {what}")
    rows = section(given.get("rows"), (*PATH, "rows"), problems)
    if not rows:
        problems.add((*PATH, "rows"), "missing; write the table as {name: {metric: value}}")
    contenders = _contenders(groups, confirm)
    return Published(
        **read,
        rows=tuple(_row(name, content, problems, contenders) for name, content in rows.items()),
    )


def _row(name: str, content: Any, problems: Problems, contenders: list[str]) -> PublishedRow:
    path = (*PATH, "rows", name)
    values: dict[str, float] = {}
    measured = ""
    for field, value in section(content, path, problems).items():
        here = (*path, field)
        if field == "measured":
            measured = value if isinstance(value, str) else ""
            if measured not in contenders:
                known = unknown_name("contender", str(value), contenders)
                problems.add(here, known, about=[("confirm",), ("teachers",)])
        elif not _METRIC.fullmatch(field):
            problems.add(
                here, "not a name for a metric: must be letters, digits, spaces and . _ @ % -"
            )
        elif (found := check_value(float, value, here, problems)) is not INVALID:
            values[field] = float(found)
    if not values:
        message = f"found {shown(content)}, must be metrics with their values: {{accuracy: 79.2, nll: 1.07}}"
        problems.add(path, message, about=[path])
    return PublishedRow(name=name, values=values, measured=measured)


def _contenders(groups: list[TeacherGroup], confirm: Confirm) -> list[str]:
    """The rows that the table of the study will have."""
    named = [f"teacher-{group.name}" for group in groups if group.name]
    return ["ensemble", "teacher", *named, *confirm.baselines, *confirm.ensembles, *confirm.found]
