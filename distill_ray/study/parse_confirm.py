"""Reads the sections `confirm`, baselines and ensembles of what others predict, and `published`,
the table that a paper printed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from distill_ray.addresses import masked
from distill_ray.job import Recipe
from distill_ray.methods import EnsembleKD, Supervised
from distill_ray.registry import unknown_name
from distill_ray.settings import setting_fields
from distill_ray.study.fields import INVALID, check_value, read_fields, section
from distill_ray.study.problems import Path, Problems, check_address
from distill_ray.study.recipes import change, own_method, read_settings
from distill_ray.study.sections import (
    BASELINES,
    BASELINES_WITH_WEIGHTS,
    BUILT_IN,
    NAME,
    NAME_RULE,
    STUDENT_ENSEMBLE,
    Confirm,
    ForeignSection,
    MeanOf,
    Published,
    PublishedRow,
    Search,
    TeacherGroup,
)

CONFIRM: Path = ("confirm",)
PUBLISHED: Path = ("published",)
_RESERVED = re.compile(r"ensemble|teachers?(-.*)?|best(-\d+)?")
_METRIC = re.compile(r"[A-Za-z][A-Za-z0-9 ._@%-]{0,29}")
_OTHERS = "{name: {setting: value}} with what differs from the student"
_MEAN = setting_fields(MeanOf)


def read_confirm(
    values: Any, problems: Problems, student: Recipe, search: Search, groups: Sequence[TeacherGroup]
) -> Confirm:
    """The confirm section, with a default for all that it leaves out."""
    fields = section(values, CONFIRM, problems)
    read = read_fields(Confirm, values, CONFIRM, problems, elsewhere=("baselines",))
    path = (*CONFIRM, "baselines")
    _check_foreign(read.get("foreign"), problems)
    usual = BASELINES if student.weights is None else BASELINES_WITH_WEIGHTS
    contents = _listed(fields.get("baselines", list(usual)), path, problems, student)
    alone = replace(student, method=Supervised(), versions=None)
    built_in = {"scratch": alone, "default-kd": replace(student, method=EnsembleKD())}
    if student.weights is not None:
        drawn = replace(alone, weights=None, freeze=0, layer_decay=None, classes=())
        built_in |= {"scratch": drawn, "fine-tuned": alone}
    means, baselines, learns_from = {}, {}, {}
    for name, content in contents.items():
        here = (*path, name)
        if not NAME.fullmatch(name) or _RESERVED.fullmatch(name):
            rule = f"must be {NAME_RULE}, and not ensemble, teacher or best"
            problems.add(here, f"not a name for a baseline: {rule}")
        if _is_mean(name, content):
            means[name] = content or {}
            continue
        baselines[name] = _baseline(content, here, problems, built_in.get(name, student))
        if isinstance(content, dict) and "teachers" in content:
            names = read_groups(content["teachers"], (*here, "teachers"), problems, groups)
            learns_from[name] = names
    searches = len(search.each)
    if searches and read.setdefault("top", searches) != searches:
        rule = f"but the best of each {search.for_each} is confirmed; leave it out"
        problems.refuse((*CONFIRM, "top"), read["top"], rule, about=[("search", "for_each")])
    trials = search.trials
    confirm = Confirm(**read, baselines=baselines, learns_from=learns_from)
    if confirm.top > trials:
        rule = f"but the search has only {trials} trials"
        problems.refuse((*CONFIRM, "top"), confirm.top, rule, about=[("search", "trials")])
    ensembles = {}
    for name, content in means.items():
        ensembles[name] = _mean(content, (*path, name), problems, confirm, groups)
    return replace(confirm, ensembles=ensembles)


def _check_foreign(foreign: ForeignSection | None, problems: Problems) -> None:
    if foreign is None:
        return
    path = (*CONFIRM, "foreign")
    named = (*foreign.near, *foreign.far)
    if not named:
        problems.add(path, "names no data set; list some as near or far")
    for kind, places in (("near", foreign.near), ("far", foreign.far)):
        for index, place in enumerate(places):
            if named.count(place) > 1:
                message = f"{masked(place)!r} is named more than once; name each set once"
                problems.add((*path, kind, index), message)
            check_address(place, "data set", (*path, kind, index), problems)


def read_groups(
    listed: Any, path: Path, problems: Problems, groups: Sequence[TeacherGroup]
) -> tuple[str, ...]:
    """The groups of teachers that a student learns from, by name."""
    known = [group.name for group in groups if group.name]
    names = check_value(tuple[str, ...], listed, path, problems)
    if names is INVALID:
        return ()
    if not names or len(set(names)) < len(names):
        problems.refuse(path, listed, "must be at least one group of teachers, each once")
    for place, name in enumerate(names):
        if name not in known:
            message = "no group of teachers has a name"
            if known:
                message = unknown_name("group of teachers", name, known)
            problems.add((*path, place), message, about=[("teachers",)])
    return tuple(names)


def _listed(listed: Any, path: Path, problems: Problems, student: Recipe) -> Mapping[str, Any]:
    if isinstance(listed, dict):
        return listed
    if not isinstance(listed, list):
        rule = f"must be a list of {', '.join(BUILT_IN)}, or {_OTHERS}"
        problems.refuse(path, listed, rule)
        return {}
    for index, name in enumerate(listed):
        if name not in BUILT_IN:
            names = f"{', '.join(BUILT_IN[:-1])} or {BUILT_IN[-1]}"
            rule = f"must be {names}; others are written {_OTHERS}"
            problems.refuse((*path, index), name, rule)
        elif name == "fine-tuned" and student.weights is None:
            rule = "but the student has no weights to start from"
            problems.refuse((*path, index), name, rule, about=[("student",)])
    return {name: None for name in listed if name in BUILT_IN}


def _is_mean(name: str, content: Any) -> bool:
    if isinstance(content, dict) and "ensemble" in content:
        return True
    return name == STUDENT_ENSEMBLE and not content


def _baseline(content: Any, path: Path, problems: Problems, base: Recipe) -> Recipe:
    method = own_method(content, base.method.name)
    methods = None if method is None else (method,)
    settings = read_settings(content, path, problems, methods=methods, elsewhere=("teachers",))
    try:
        return change(base, settings)
    except ValueError as error:
        problems.add(path, str(error))
        return base


def _mean(
    content: Mapping[str, Any],
    path: Path,
    problems: Problems,
    confirm: Confirm,
    groups: Sequence[TeacherGroup],
) -> MeanOf:
    """The ensemble that `content` describes: of one contender's runs, or of several contenders."""
    for unknown in content.keys() - {"ensemble", "shares"}:
        problems.add((*path, unknown), "an ensemble has no such field (known: ensemble, shares)")
    listed, in_ensemble = content.get("ensemble", list(confirm.best_names[:1])), (*path, "ensemble")
    of = check_value(_MEAN["of"].type, listed, in_ensemble, problems)
    in_shares = (*path, "shares")
    shares = check_value(_MEAN["shares"].type, content.get("shares", []), in_shares, problems)
    if of is INVALID or shares is INVALID:
        return MeanOf(of=())
    runs = _runs(confirm, groups)
    if missing := [name for name in of if name not in runs]:
        for name in missing:
            message = unknown_name("contender", name, list(runs))
            problems.add(in_ensemble, message, about=[("confirm", "top")])
        return MeanOf(of=())
    counts = {runs[name] for name in of}
    members = len(of) if len(of) > 1 else sum(counts)
    by_seeds = [("confirm", "seeds")]
    if len(of) == 1 and members < 2:
        message = "must be made of at least 2 runs; raise confirm.seeds"
        problems.add(path, message, about=by_seeds)
    elif len(set(of)) < len(of) or members < 2:
        message = "must be the mean of at least 2 different networks"
        problems.add(path, message, about=by_seeds)
    elif len(of) > 1 and len(counts) > 1:
        message = "its members must have the same number of runs"
        problems.add(in_ensemble, message, about=by_seeds)
    elif shares and (len(shares) != members or not any(shares)):
        problems.refuse(in_shares, list(shares), f"must be {members} numbers, not all 0")
    return MeanOf(of=of, shares=shares)


def _runs(confirm: Confirm, groups: Sequence[TeacherGroup]) -> dict[str, int]:
    """How many networks there are of everything that an ensemble can be made of."""
    teachers = {"teacher": sum(len(group.seeds) for group in groups)}
    teachers |= {f"teacher-{group.name}": len(group.seeds) for group in groups if group.name}
    return teachers | dict.fromkeys([*confirm.baselines, *confirm.best_names], confirm.seeds)


def read_published(
    values: Any, problems: Problems, groups: Sequence[TeacherGroup], confirm: Confirm
) -> Published | None:
    """The published section; `None` when there is none."""
    if values is None:
        return None
    fields = section(values, PUBLISHED, problems)
    read = read_fields(Published, values, PUBLISHED, problems, elsewhere=("rows",))
    for name, what in (
        ("source", "where the table was published"),
        ("difference", "how that experiment differs from this"),
    ):
        if not read.setdefault(name, "").strip():
            problems.add((*PUBLISHED, name), f"missing; say {what}")
    path = (*PUBLISHED, "rows")
    rows = section(fields.get("rows"), path, problems)
    if not rows:
        problems.add(path, "missing; write the table as {name: {metric: value}}")
    named = [f"teacher-{group.name}" for group in groups if group.name]
    others = (*confirm.baselines, *confirm.ensembles, *confirm.best_names)
    contenders = ["ensemble", "teacher", *named, *others]
    return Published(
        **read,
        rows=tuple(
            _row(name, content, (*path, name), problems, contenders)
            for name, content in rows.items()
        ),
    )


def _row(
    name: str, content: Any, path: Path, problems: Problems, contenders: list[str]
) -> PublishedRow:
    values: dict[str, float] = {}
    measured = ""
    for field, value in section(content, path, problems).items():
        here = (*path, field)
        if field == "measured":
            measured = value if isinstance(value, str) else ""
            if measured not in contenders:
                message = unknown_name("contender", str(value), contenders)
                problems.add(here, message, about=[("confirm",), ("teachers",)])
        elif not _METRIC.fullmatch(field):
            rule = "must be letters, digits, spaces and . _ @ % -"
            problems.add(here, f"not a name for a metric: {rule}")
        elif (number := check_value(float, value, here, problems)) is not INVALID:
            values[field] = number
    if not values:
        rule = "must be metrics with their values: {accuracy: 79.2, nll: 1.07}"
        problems.refuse(path, content, rule, about=[path])
    return PublishedRow(name=name, values=values, measured=measured)
