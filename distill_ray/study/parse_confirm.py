"""Reads the section `confirm`: baselines with a recipe of their own, and ensembles of what others
predict.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from distill_ray.job import Recipe
from distill_ray.methods import EnsembleKD, Supervised
from distill_ray.registry import unknown_name
from distill_ray.settings import setting_fields
from distill_ray.study.fields import INVALID, check_value, read_fields, section
from distill_ray.study.problems import Path, Problems, shown
from distill_ray.study.recipes import change, own_method, read_settings
from distill_ray.study.sections import (
    BASELINES,
    BUILT_IN,
    NAME,
    NAME_RULE,
    STUDENT_ENSEMBLE,
    Confirm,
    MeanOf,
    TeacherGroup,
)

_RESERVED = re.compile(r"ensemble|teachers?(-.*)?|best(-\d+)?")
_OTHERS = "{name: {setting: value}} with what differs from the student"
_MEAN = setting_fields(MeanOf)


def read_confirm(
    values: Any, problems: Problems, student: Recipe, trials: int, groups: Sequence[TeacherGroup]
) -> Confirm:
    """The confirm section, with a default for all that it leaves out."""
    path: Path = ("confirm",)
    given = section(values, path, problems)
    read = read_fields(
        Confirm, values, path, problems, elsewhere=("baselines", "ensembles", "learns_from")
    )
    for name in ("ensembles", "learns_from"):
        if name in given:
            problems.add(
                (*path, name),
                "unknown field; ensembles of students are written among the baselines",
            )
    contents = _listed(given.get("baselines", list(BASELINES)), (*path, "baselines"), problems)
    built_in = {
        "scratch": replace(student, method=Supervised()),
        "default-kd": replace(student, method=EnsembleKD()),
    }
    means = {name: content for name, content in contents.items() if _is_mean(name, content)}
    baselines, learns_from = {}, {}
    for name, content in contents.items():
        here = (*path, "baselines", name)
        if not NAME.fullmatch(name) or _RESERVED.fullmatch(name):
            problems.add(
                here,
                f"not a name for a baseline: must be {NAME_RULE}, and not ensemble, teacher or best",
            )
        if name not in means:
            baselines[name] = _baseline(content, here, problems, built_in.get(name, student))
            if isinstance(content, dict) and "teachers" in content:
                learns_from[name] = read_groups(
                    content["teachers"], (*here, "teachers"), problems, groups
                )
    confirm = Confirm(**read, baselines=baselines, learns_from=learns_from)
    if confirm.top > trials:
        message = f"found {confirm.top}, but the search has only {trials} trials"
        problems.add((*path, "top"), message, about=[("search", "trials")])
    runs = _runs(confirm, groups)
    ensembles = {
        name: _mean(name, content or {}, (*path, "baselines", name), problems, runs, confirm)
        for name, content in means.items()
    }
    return replace(confirm, ensembles=ensembles)


def read_groups(
    given: Any, path: Path, problems: Problems, groups: Sequence[TeacherGroup]
) -> tuple[str, ...]:
    """The groups of teachers that a student learns from, by name."""
    known = [group.name for group in groups if group.name]
    names = check_value(_MEAN["of"].type, given, path, problems)
    if names is INVALID:
        return ()
    if not names or len(set(names)) < len(names):
        problems.add(
            path, f"found {shown(given)}, must be at least one group of teachers, each once"
        )
    for place, name in enumerate(names):
        if name not in known:
            hint = (
                unknown_name("group of teachers", name, known)
                if known
                else "no group of teachers has a name"
            )
            problems.add((*path, place), hint, about=[("teachers",)])
    return tuple(names)


def _listed(given: Any, path: Path, problems: Problems) -> Mapping[str, Any]:
    if isinstance(given, dict):
        return given
    if not isinstance(given, list):
        problems.add(
            path, f"found {shown(given)}, must be a list of {', '.join(BUILT_IN)}, or {_OTHERS}"
        )
        return {}
    for index, name in enumerate(given):
        if name not in BUILT_IN:
            message = f"found {shown(name)}, must be {', '.join(BASELINES)} or {STUDENT_ENSEMBLE}; others are written {_OTHERS}"
            problems.add((*path, index), message)
    return {name: None for name in given if name in BUILT_IN}


def _is_mean(name: str, content: Any) -> bool:
    return (name == STUDENT_ENSEMBLE and not content) or (
        isinstance(content, dict) and "ensemble" in content
    )


def _baseline(content: Any, path: Path, problems: Problems, base: Recipe) -> Recipe:
    method = own_method(content, base.method.name)
    methods = None if method is None else (method,)
    settings = read_settings(content, path, problems, methods=methods, elsewhere=("teachers",))
    try:
        return change(base, settings)
    except ValueError as error:
        problems.add(path, str(error))
        return base


def _runs(confirm: Confirm, groups: Sequence[TeacherGroup]) -> dict[str, int]:
    """How many networks there are of everything that an ensemble can be made of."""
    teachers = {"teacher": sum(len(group.seeds) for group in groups)}
    teachers |= {f"teacher-{group.name}": len(group.seeds) for group in groups if group.name}
    return teachers | dict.fromkeys([*confirm.baselines, *confirm.found], confirm.seeds)


def _mean(
    name: str,
    content: Mapping[str, Any],
    path: Path,
    problems: Problems,
    runs: Mapping[str, int],
    confirm: Confirm,
) -> MeanOf:
    for unknown in content.keys() - {"ensemble", "shares"}:
        problems.add((*path, unknown), "an ensemble has no such field (known: ensemble, shares)")
    of = content.get("ensemble", list(confirm.found[:1]))
    of, shares = (
        check_value(_MEAN["of"].type, of, (*path, "ensemble"), problems),
        check_value(_MEAN["shares"].type, content.get("shares", []), (*path, "shares"), problems),
    )
    if of is INVALID or shares is INVALID:
        return MeanOf(of=())
    missing = [each for each in of if each not in runs]
    for each in missing:
        problems.add(
            (*path, "ensemble"),
            unknown_name("contender", each, list(runs)),
            about=[("confirm", "top")],
        )
    if missing:
        return MeanOf(of=())
    counts = {runs[each] for each in of}
    members = len(of) if len(of) > 1 else sum(counts)
    if len(set(of)) < len(of) or members < 2:
        what = (
            "the mean of at least 2 different networks"
            if len(of) != 1
            else "made of at least 2 runs; raise confirm.seeds"
        )
        problems.add(path, f"must be {what}", about=[("confirm", "seeds")])
    elif len(of) > 1 and len(counts) > 1:
        problems.add(
            (*path, "ensemble"),
            "its members must have the same number of runs",
            about=[("confirm", "seeds")],
        )
    elif shares and (len(shares) != members or not any(shares)):
        problems.add(
            (*path, "shares"), f"found {shown(list(shares))}, must be {members} numbers, not all 0"
        )
    return MeanOf(of=of, shares=shares)
