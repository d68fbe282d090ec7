"""Reads a study from its document: every section for itself, then what the sections ask of each
other.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from distill_ray.augmentation import AUGMENTATIONS, CropFlip
from distill_ray.errors import RequestError
from distill_ray.job import FOR_WEIGHTS, Recipe
from distill_ray.methods import METHODS
from distill_ray.settings import setting_fields
from distill_ray.study.absent_teachers import answering_group, check_absent_teachers
from distill_ray.study.checks import check_recipe, check_teachers
from distill_ray.study.compatibility import (
    check_baselines_fit,
    check_students_fit,
    check_teachers_fit,
    check_top_k_fits,
    named_setting,
)
from distill_ray.study.document import Document, read_document
from distill_ray.study.fields import INVALID, check_value, read_fields, section
from distill_ray.study.parse_confirm import read_confirm, read_groups, read_published
from distill_ray.study.parse_search import read_screen, read_search
from distill_ray.study.parse_space import Reach, choice_of
from distill_ray.study.problems import Path, Problems, check_address
from distill_ray.study.recipes import COMMON, assemble, own_method, read_settings, setting_owners
from distill_ray.study.sections import (
    NAME_RULE,
    Confirm,
    DataSection,
    GroupFields,
    Resources,
    Search,
    Seed,
    TeacherGroup,
    is_name,
)
from distill_ray.study.study import StudyDefinition, members
from distill_ray.study.weights import pinned

SECTIONS = (
    "name",
    "data",
    "teachers",
    "student",
    "screen",
    "search",
    "confirm",
    "published",
    "resources",
    "seed",
)


Earlier = Callable[[str], Mapping[str, Any]]
"""What finds the network that `from` names: its settings for the study file, `model`, `weights` and
perhaps `preprocessing`. Raises `RequestError` when there is none.
"""


def load_study(
    path: str | pathlib.Path,
    overrides: Sequence[str] = (),
    earlier: Earlier | None = None,
    *,
    is_asking: bool = False,
) -> StudyDefinition:
    """The study in file `path`, with overrides such as `"search.trials=4"` applied.

    `earlier` finds the teachers that the file takes from earlier studies, where it is known which
    store has them. Who `is_asking` absent teachers for answers has no folders of them yet.

    Raises `RequestError` with one line for everything that is wrong: file and line, field, what was
    found, what is allowed.
    """
    document = read_document(path, overrides)
    return read_study(document, tuple(overrides), earlier, is_asking=is_asking)


def read_study(
    document: Document,
    overrides: tuple[str, ...] = (),
    earlier: Earlier | None = None,
    *,
    is_asking: bool = False,
) -> StudyDefinition:
    """The study that `document` describes; see `load_study`. Raises `RequestError` with a line for
    everything that is wrong with it.
    """
    values, problems = document.values, document.problems
    # Every section for itself
    for key in values:
        if key in SECTIONS:
            continue
        if message := _elsewhere(key):
            problems.add((key,), message)
        else:
            problems.add_unknown((key,), SECTIONS)
    name = _name(values, problems)
    seed = check_value(Seed, values.get("seed", 0), ("seed",), problems)
    seed = 0 if seed is INVALID else seed
    data = DataSection(**read_fields(DataSection, values.get("data"), ("data",), problems))
    resources = Resources(
        **read_fields(Resources, values.get("resources"), ("resources",), problems)
    )
    groups = _teachers(values, seed, problems, earlier, is_asking=is_asking)
    student, fixed, reach = _student(values, problems)
    search = read_search(values.get("search"), problems, student, fixed, reach, seed)
    screen = read_screen(values.get("screen"), problems, student, search.space)
    ensemble = list(groups.values())
    confirm = read_confirm(values.get("confirm"), problems, student, search, ensemble)
    published = read_published(values.get("published"), problems, ensemble, confirm)
    learns_from = _learns_from(values.get("student"), problems, ensemble)
    # What the sections ask of each other
    if data.resize is not None and (data.size is None or data.resize < data.size):
        least = (
            "is for images with a size" if data.size is None else f"must be at least {data.size}"
        )
        message = f"found {data.resize}, {least}, the side that networks see"
        problems.add(("data", "resize"), message, about=[("data", "size")])
    check_address(data.source, "data set", ("data", "source"), problems)
    for index, source in enumerate(search.warm_start):
        place = ("search", "warm_start", index)
        check_address(source.partition("@")[2], "store", place, problems)
    _check_gpus(resources, problems)
    if search.budget and search.budget.gpu_hours and not resources.gpus_per_worker:
        message = "trials have no GPUs here (resources.gpus_per_worker: 0); use budget.epochs"
        about: list[Path] = [("resources", "gpus_per_worker")]
        problems.add(("search", "budget", "gpu_hours"), message, about=about)
    check_teachers(groups, resources.workers_per_teacher, problems)
    check_recipe(student, ("student",), resources.workers_per_trial, problems, space=search.space)
    for baseline, recipe in confirm.baselines.items():
        path = ("confirm", "baselines", baseline)
        check_recipe(recipe, path, resources.workers_per_trial, problems, about=[("student",)])
    check_teachers_fit(groups, problems)
    check_absent_teachers(groups, learns_from, search, screen, confirm, resources, problems)
    check_students_fit(student, search.space, _models(ensemble, learns_from), problems)
    teachers = {
        name: _models(ensemble, confirm.learns_from.get(name, learns_from))
        for name in confirm.baselines
    }
    check_baselines_fit(confirm.baselines, teachers, problems)
    check_top_k_fits(resources, student, search.space, confirm.baselines.values(), problems)
    problems.raise_any()
    # Weights from files, by their content
    files: dict[str, str] = {}
    baselines = {name: pinned(recipe, files) for name, recipe in confirm.baselines.items()}
    return StudyDefinition(
        name=name,
        data=data,
        teachers=tuple(
            replace(group, recipe=pinned(group.recipe, files)) for group in groups.values()
        ),
        student=pinned(student, files),
        learns_from=learns_from,
        screen=screen,
        search=search,
        confirm=replace(confirm, baselines=baselines),
        published=published,
        resources=resources,
        seed=seed,
        weight_files=files,
        overrides=overrides,
        document=document,
    )


def _elsewhere(key: str) -> str:
    """The message for a field that stands beside the sections and belongs into one; empty where
    none has it.
    """
    homes: dict[str, type] = {
        "search": Search,
        "confirm": Confirm,
        "data": DataSection,
        "resources": Resources,
    }
    home = next((name for name, cls in homes.items() if key in setting_fields(cls)), None)
    if home is None and key == "members":
        home = "teachers"
    elif home is None and setting_owners(key, None):
        home = "student"
    return f"unknown field; did you mean '{home}.{key}'?" if home else ""


def _check_gpus(resources: Resources, problems: Problems) -> None:
    path: Path = ("resources", "gpus_per_worker")
    gpus = resources.gpus_per_worker
    workers = max(resources.workers_per_teacher, resources.workers_per_trial)
    if gpus > 1 and gpus % 1:
        problems.refuse(path, gpus, "must be a whole number, or below 1 to share a GPU")
    elif 0 < gpus < 1 and workers > 1:
        rule = f"but the {workers} workers of one job cannot share a GPU; give each a whole one"
        problems.refuse(path, gpus, rule)


def _name(values: Mapping[str, Any], problems: Problems) -> str:
    if "name" in values:
        is_name(values["name"], ("name",), problems)
    else:
        what = f"missing; it names the study in the store and in MLflow ({NAME_RULE})"
        problems.add(("name",), what)
    return str(values.get("name"))


def _teachers(
    values: Mapping[str, Any],
    seed: int,
    problems: Problems,
    earlier: Earlier | None,
    *,
    is_asking: bool,
) -> dict[Path, TeacherGroup]:
    content = values.get("teachers")
    if content is None or content == []:
        problems.add(
            ("teachers",), "missing; name at least their model: {model: wrn-16-2, members: 3}"
        )
        return {}
    groups: dict[Path, TeacherGroup] = {}
    for index, group in enumerate(content if isinstance(content, list) else [content]):
        path: Path = ("teachers", index) if isinstance(content, list) else ("teachers",)
        if isinstance(group, dict) and "answers" in group:
            groups[path] = answering_group(group, path, problems, is_asking=is_asking)
            continue
        first = seed + sum(len(group.seeds) for group in groups.values())
        taken = _taken_from(group, path, problems, earlier)
        read = _teacher_group(taken, path, first, problems)
        source = group.get("from") if isinstance(group, dict) else None
        groups[path] = replace(read, source=source) if isinstance(source, str) else read
    named = [group.name for group in groups.values() if group.name]
    for path, group in groups.items():
        if named.count(group.name) > 1:
            problems.add(
                (*path, "name"),
                f"found {group.name!r} more than once; a name tells groups of teachers apart",
            )
    return groups


def _taken_from(content: Any, path: Path, problems: Problems, earlier: Earlier | None) -> Any:
    """The section of a group with the settings that `from` stands for in its place."""
    if not isinstance(content, dict) or "from" not in content:
        return content
    here, source = (*path, "from"), content["from"]
    left = {name: value for name, value in content.items() if name != "from"}
    doubled = [name for name in ("model", "weights", "classes") if name in content]
    if not isinstance(source, str) or not source:
        problems.refuse(here, source, "must be a study, such as older@STORE, or job ID")
    elif doubled:
        problems.add((*path, doubled[0]), "comes with `from`; leave it out")
    elif earlier is None:
        problems.add(here, "names a network in a store, and no store is known here")
    else:
        try:
            return {**earlier(source), **left}
        except RequestError as error:
            problems.add(here, str(error))
    return {"model": "wrn-10-1", **left}  # for the checks that follow


def _models(groups: Sequence[TeacherGroup], names: Sequence[str]) -> list[str]:
    """The models of the teachers in the groups of these names; of all teachers without names."""
    models = [group.recipe.model for group in groups for _ in group.seeds]
    return [models[place] for place in members(groups, names)]


def _teacher_group(content: Any, path: Path, first_seed: int, problems: Problems) -> TeacherGroup:
    fields = setting_fields(GroupFields)
    written = section(content, path, problems)
    own = {name: written[name] for name in ("members", "seeds", "calibrate") if name in written}
    read = read_fields(GroupFields, own, path, problems)
    seeding = {name: value for name, value in own.items() if name != "calibrate"}
    # Weights that are taken as they are make one teacher; fine-tuned, each seed makes another.
    as_they_are = written.get("weights") is not None and "epochs" not in written
    members, seeds = read.get("members", 1 if as_they_are else 3), read.get("seeds")
    if as_they_are and seeding and (members != 1 or len(seeds or [0]) != 1):
        message = (
            "weights that are taken as they are make one teacher; set epochs to fine-tune them"
        )
        problems.add((*path, next(iter(seeding))), message)
    if not seeding.keys() <= read.keys():
        seeds = ()
    elif seeds is None:
        seeds = tuple(range(first_seed, first_seed + members))
    elif not seeds or len(set(seeds)) < len(seeds):
        problems.refuse(
            (*path, "seeds"), written["seeds"], "must be at least one seed, all different"
        )
    elif "members" in seeding and members != len(seeds):
        rule = f"but `seeds` has {len(seeds)}; leave one of the two out"
        problems.refuse((*path, "members"), members, rule)
    method = own_method(content, "supervised")
    if method and METHODS[method].needs_teachers:
        message = (
            f"method {method!r} needs teachers itself; teachers learn from labels (supervised)"
        )
        problems.add((*path, "method"), message)
    methods = None if method is None else (method,)
    settings = read_settings(content, path, problems, methods=methods, elsewhere=tuple(fields))
    if as_they_are:
        settings["epochs"] = 0
    name = written.get("name", "")
    if name != "" and not is_name(name, (*path, "name"), problems):
        name = ""
    recipe = _recipe(settings, content, method or "supervised", path, problems)
    calibrate = read.get("calibrate", False)
    return TeacherGroup(recipe=recipe, seeds=seeds, calibrate=calibrate, name=name)


def _learns_from(
    student: Any, problems: Problems, groups: Sequence[TeacherGroup]
) -> tuple[str, ...]:
    """The groups of teachers that students learn from; all of them when the section does not name
    any.
    """
    names = student.get("teachers") if isinstance(student, dict) else None
    return () if names is None else read_groups(names, ("student", "teachers"), problems, groups)


def _student(values: Mapping[str, Any], problems: Problems) -> tuple[Recipe, dict[str, Any], Reach]:
    """The base recipe, the settings of methods that the section names, and what trials can reach
    from there.
    """
    path: Path = ("student",)
    content = values.get("student")
    search = values.get("search")
    space = search.get("space") if isinstance(search, dict) else None
    listed = choice_of(space, "method")
    searched = (
        None
        if listed is None
        else [name for name in listed if isinstance(name, str) and name in METHODS]
    )
    default = "kd" if not searched or "kd" in searched else searched[0]
    method = own_method(content, default)
    known = method is not None and (searched is None or (len(searched) == len(listed or []) > 0))
    methods = tuple(dict.fromkeys([*(searched or []), method or default])) if known else None
    settings = read_settings(content, path, problems, methods=methods, elsewhere=("teachers",))
    recipe = _recipe(settings, content, method or default, path, problems)
    fixed = {
        name: value
        for name, value in settings.items()
        if name not in (*COMMON, "augmentation", "method")
    }
    reach = Reach(
        tuple(searched) if searched and known else methods, _augmentations(space, recipe, problems)
    )
    return recipe, fixed if searched else {}, reach


def _augmentations(space: Any, student: Recipe, problems: Problems) -> tuple[str, ...] | None:
    listed = choice_of(space, "augmentation")
    if listed is None:
        return (
            None if problems.concern(("student", "augmentation")) else (student.augmentation.name,)
        )
    names: list[Any] = [
        augmentation.get("name") if isinstance(augmentation, dict) else augmentation
        for augmentation in listed
    ]
    return (
        tuple(dict.fromkeys(names))
        if names and all(isinstance(name, str) and name in AUGMENTATIONS for name in names)
        else None
    )


def _recipe(
    settings: Mapping[str, Any], content: Any, method: str, path: Path, problems: Problems
) -> Recipe:
    """The recipe of a section. What is missing or wrong is noted, and replaced for the sake of the
    checks that follow.
    """
    if content is None or (isinstance(content, dict) and "model" not in content):
        problems.add((*path, "model"), "missing; name an architecture, such as wrn-16-2")
    filled = {"model": "", "augmentation": CropFlip(), **settings, "method": method}
    try:
        return assemble(filled)
    except ValueError as error:
        reason = str(error)
        named = named_setting(reason, settings) or {*FOR_WEIGHTS} & {reason.partition(" ")[0]}
        written = content if isinstance(content, dict) else {}
        mentioned = [(*path, name) for name in re.findall(r"\w+", reason) if name in written]
        problems.add((*path, *(named or {"method"})), reason, about=mentioned)
        return Recipe(model="")
