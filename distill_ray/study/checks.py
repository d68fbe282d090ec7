"""What fields of a study ask of each other, and of the data once it is known."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from distill_ray.augmentation import Augmentation
from distill_ray.job import Recipe, Split
from distill_ray.methods import Method
from distill_ray.metric import objectives
from distill_ray.models import check_model_name, trains_on_one_image
from distill_ray.study.compatibility import combinations
from distill_ray.study.problems import Path, Problems, dotted, quoted
from distill_ray.study.sections import TeacherGroup
from distill_ray.study.space import Range, SearchSpace
from distill_ray.study.study import Study
from distill_ray.task import Task


def check_teachers(groups: Mapping[Path, TeacherGroup], workers: int, problems: Problems) -> None:
    """Each group's recipe, and that no teacher is there twice."""
    first: dict[tuple[Recipe, int], Path] = {}
    for path, group in groups.items():
        check_recipe(group.recipe, path, workers, problems)
        for seed in set(group.seeds):
            known = first.setdefault((group.recipe, seed), path)
            if known != path:
                message = (
                    f"seed {seed} with the same settings is in teachers.{known[-1]} already; "
                    "the two would be one network"
                )
                problems.add((*path, "seeds"), message, about=[path, known])


def check_recipe(
    recipe: Recipe,
    path: Path,
    workers: int,
    problems: Problems,
    *,
    about: Iterable[Path] = (),
    space: SearchSpace | None = None,
) -> None:
    """The fields of a recipe against each other; with a `space`, for every value that they can take
    in it.
    """
    reach = _Reach(recipe, path, space)
    about = list(about)

    def wrong(name: str, message: str, *others: str) -> None:
        where, mine = reach.place(name)
        involved = [reach.place(other)[0] for other in (name, *others)]
        problems.add(where, f"found {quoted(mine)}, {message}", about=[*about, *involved])

    epochs = min(reach.values("epochs"))
    if epochs and max(reach.values("warmup_epochs")) >= epochs:
        wrong("warmup_epochs", f"must be below epochs ({epochs})", "epochs")
    for milestones in reach.values("milestones"):
        if any(later <= earlier for earlier, later in itertools.pairwise(milestones)):
            wrong("milestones", "must rise")
        elif milestones and milestones[-1] >= epochs:
            wrong("milestones", f"must be below epochs ({epochs})", "epochs")
        elif milestones and "step" not in reach.values("schedule"):
            wrong("milestones", "which is for schedule: step", "schedule")
    lowest = min(reach.values("lr"))
    if max(reach.values("final_lr")) > lowest:
        wrong("final_lr", f"must be at most lr ({lowest})", "lr")
    if (
        "sgd" in reach.values("optimizer")
        and min(reach.values("momentum")) == 0
        and True in reach.values("nesterov")
    ):
        wrong("momentum", "must be above 0 with nesterov: true", "nesterov")
    if min(reach.values("batch_size")) < workers:
        wrong(
            "batch_size",
            f"must be at least the number of workers that share it ({workers})",
            "workers",
        )


class _Reach:
    """The values that a field of a recipe can take, and the place in the file that decides."""

    def __init__(self, recipe: Recipe, path: Path, space: SearchSpace | None) -> None:
        self._recipe = recipe
        self._path = path
        self._searched = (
            {dimension.name: dimension for dimension in space.dimensions} if space else {}
        )

    def values(self, name: str) -> list[Any]:
        dimension = self._searched.get(name)
        if dimension is None:
            return [getattr(self._recipe, name)]
        fixed = [getattr(self._recipe, name)] if dimension.when else []
        return [*fixed, *dimension.limits]

    def every(self, name: str) -> list[int]:
        """The values of a whole number, in a range too."""
        dimension = self._searched.get(name)
        if not isinstance(dimension, Range):
            return self.values(name)
        fixed = [getattr(self._recipe, name)] if dimension.when else []
        step = int(dimension.step or 1)
        drawn = range(int(dimension.high), int(dimension.low) - 1, -step)
        return [*fixed, *drawn[:MAX_TRIED]]

    def place(self, name: str) -> tuple[Path, Any]:
        dimension = self._searched.get(name)
        if dimension is None:
            return (*self._path, name), getattr(self._recipe, name, None)
        return ("search", "space", name), next(iter(dimension.to_file().values()))


def check_against_data(
    study: Study,
    rows: int,
    num_classes: int | None = None,
    image_shape: tuple[int, int, int] | None = None,
    *,
    task: Task = "classification",
    real_valued: bool = False,
) -> None:
    """Check a study against so many training images of shape (C, H, W), or real numbers of that
    shape.

    Raises `RequestError` as `load_study` does.
    """
    split = study.data.cut(rows)
    train = rows - split.validation if split.train is None else split.train
    problems = _split(split, rows, train, num_classes)
    if not problems:
        problems += _batches(study, train, image_shape)
        problems += _screening(study, train)
    if image_shape is not None:
        problems += _inputs(study, image_shape, task, real_valued)
    problems += _task(study, task)
    if problems:
        raise study.error(problems)


def _split(split: Split, rows: int, train: int, num_classes: int | None) -> list[tuple[str, str]]:
    left = rows - split.validation
    if left <= 0:
        message = f"found {split.validation}, must leave some of the {rows} training images"
        return [("data.validation", message)]
    if train > left:
        remaining = f"{left} of the {rows} training images are left after validation"
        message = f"found {train}, but only {remaining}"
        return [("data.train", message)]
    if split.rule == "stratified" and num_classes and min(split.validation, train) < num_classes:
        name = "validation" if split.validation < num_classes else "train"
        message = f"a stratified split needs an image of each of the {num_classes} classes"
        return [(f"data.{name}", message)]
    return []


def _screening(study: Study, train: int) -> Iterable[tuple[str, str]]:
    screen = study.screen
    if screen is None:
        return
    if screen.images is not None and screen.images > train:
        yield (
            "screen.images",
            f"found {screen.images}, but the training split has only {train} images",
        )
    steps = screen.epochs * -(-min(screen.images or train, train) // screen.batch_size)
    if steps < 2 * GROUP:
        message = (
            f"found {screen.epochs}, which make {steps} batches of {screen.batch_size}; "
            f"a measurement needs {2 * GROUP}"
        )
        yield "screen.epochs", message


MAX_TRIED = 10_000
"""Values of a range that are looked at."""

GROUP = 5
"""Batches in one group of a screening, as in Wang et al. 2022."""


def _batches(
    study: Study, train: int, image_shape: tuple[int, int, int] | None
) -> Iterable[tuple[str, str]]:
    """Batches that are larger than the training split, or the last of which is too small."""
    resources = study.resources
    listed = isinstance(study.document.values["teachers"], list)
    trained: list[tuple[_Reach, int]] = []
    for index, group in enumerate(study.teachers):
        path: Path = ("teachers", index) if listed else ("teachers",)
        trained.append((_Reach(group.recipe, path, None), resources.workers_per_teacher))
    student = _Reach(study.student, ("student",), study.search.space)
    trained.append((student, resources.workers_per_trial))
    for name, baseline in study.confirm.baselines.items():
        if baseline.batch_size != study.student.batch_size:
            reach = _Reach(baseline, ("confirm", "baselines", name), None)
            trained.append((reach, resources.workers_per_trial))
    for reach, workers in trained:
        place = dotted(reach.place("batch_size")[0])
        for size in reach.every("batch_size"):
            message = _batch_problem(reach, size, train, workers, image_shape)
            if message:
                yield place, f"found {size}, {message}"
                break


def _batch_problem(
    reach: _Reach, size: int, train: int, workers: int, image_shape: tuple[int, int, int] | None
) -> str:
    """What is wrong with batches of that size; empty if nothing is."""
    if size > train:
        return f"but the training split has only {train} images"
    last = size if all(reach.values("drop_last")) else train % size or size
    remedy = "choose another" if last == size else "choose another, or set drop_last: true"
    if last < workers:
        return f"which leaves {last} images for {workers} workers in the last batch; {remedy}"
    versions = min(augmentation.copies for augmentation in reach.values("augmentation"))
    if last // workers * versions > 1 or image_shape is None:
        return ""
    for model in reach.values("model"):
        if not _model_refused(model, image_shape) and not trains_on_one_image(model, image_shape):
            return (
                f"which leaves one image in the last batch of {train}, and {model} normalises over "
                f"the batch where its maps have one pixel; {remedy}"
            )
    return ""


def _task(study: Study, task: Task) -> Iterable[tuple[str, str]]:
    """What is asked of a study that its task does not have."""
    for objective in study.search.objectives:
        if objective not in objectives(task):
            yield (
                f"search.objectives.{objective}",
                f"no metric of {task}, which has {', '.join(objectives(task))}",
            )
    if task == "regression":
        if study.data.split == "stratified":
            yield (
                "data.split",
                "found stratified, which is by class, and labels that are real numbers have none; "
                "use last",
            )
        if study.screen is not None:
            yield (
                "screen",
                "measures the probabilities of classes, and there are none in regression; leave it "
                "out",
            )


def _inputs(
    study: Study, image_shape: tuple[int, int, int], task: Task, real_valued: bool
) -> Iterable[tuple[str, str]]:
    """The models, augmentations and methods that cannot take such images, each where it is named
    first.
    """
    listed = isinstance(study.document.values["teachers"], list)
    space = study.search.space
    places: dict[tuple[str, str], str] = {}

    def check(recipe: Recipe, section: str, place: str, searched: Mapping[str, str]) -> None:
        refusals = {
            "model": _model_refused(recipe.model, image_shape),
            "augmentation": _augmentation_refused(
                recipe.augmentation, image_shape, task, real_valued
            ),
            "method": _method_refused(recipe.method, task, real_valued),
        }
        if task == "regression" and recipe.keep == "best-accuracy":
            refusals["keep"] = (
                "counts correct answers, and regression has none; use best-nll or last"
            )
        for field, refusal in refusals.items():
            if refusal is not None:
                places.setdefault((section, refusal), searched.get(field, f"{place}.{field}"))

    for index, group in enumerate(study.teachers):
        place = f"teachers.{index}" if listed else "teachers"
        check(group.recipe, place, place, {})
    for drawn in combinations(space):
        searched = {name.split(".")[0]: f"search.space.{name}" for name in reversed(drawn)}
        check(space.recipe(study.student, drawn), "student", "student", searched)
    for name, baseline in study.confirm.baselines.items():
        check(baseline, "student", f"confirm.baselines.{name}", {})
    for augmentation in study.screen.candidates if study.screen else ():
        refusal = _augmentation_refused(augmentation, image_shape, task, real_valued)
        if refusal is not None:
            places.setdefault(("student", refusal), "screen.candidates")
    return [(place, refusal) for (_, refusal), place in places.items()]


def _model_refused(model: str, image_shape: tuple[int, int, int]) -> str | None:
    try:
        check_model_name(model, image_shape)
    except ValueError as error:
        return str(error)
    return None


def _augmentation_refused(
    augmentation: Augmentation, image_shape: tuple[int, int, int], task: Task, real_valued: bool
) -> str | None:
    if real_valued and not augmentation.real_valued:
        return (
            f"{augmentation.name}: changes pixels, and the inputs of this data set are real "
            "numbers; use identity"
        )
    try:
        augmentation.check_task(task)
        augmentation.check_images(*image_shape)
    except ValueError as error:
        return f"{augmentation.name}: {error}"
    return None


def _method_refused(method: Method, task: Task, real_valued: bool) -> str | None:
    try:
        method.check_data(task=task, real_valued=real_valued)
    except ValueError as error:
        return str(error)
    return None
