"""What fields of a study ask of each other, and of the data once it is known."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distill_ray.augmentation import Augmentation
from distill_ray.job import Recipe, Split
from distill_ray.methods import METHODS, Method
from distill_ray.metric import objectives
from distill_ray.models import check_model_name, trains_on_one_image
from distill_ray.models.preprocessing import Preprocessing
from distill_ray.study.compatibility import combinations
from distill_ray.study.own_networks import own_networks_refused
from distill_ray.study.paired_units import units_refused
from distill_ray.study.problems import Path, Problems, dotted, quoted
from distill_ray.study.sections import TeacherGroup
from distill_ray.study.space import Range, SearchSpace
from distill_ray.study.study import StudyDefinition, members
from distill_ray.task import Task

if TYPE_CHECKING:
    import numpy as np


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
    if epochs and recipe.freeze >= epochs:
        wrong("freeze", f"must be below epochs ({epochs})", "epochs")
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
    study: StudyDefinition,
    rows: int,
    num_classes: int | None = None,
    image_shape: tuple[int, int, int] | None = None,
    *,
    own_validation: int = 0,
    unlabelled: int = 0,
    task: Task = "classification",
    real_valued: bool = False,
    labels: Callable[[], np.ndarray] | None = None,
) -> None:
    """Check a study against so many training images of shape (C, H, W), or real numbers of that
    shape; the last `own_validation` of them are a validation split of the data set, and
    `unlabelled` images without labels come to them. `labels` has those of all of them, which a
    study that thins classes cannot be checked without.

    Raises `RequestError` as `load_study` does.
    """
    split = study.data.cut(rows, own_validation)
    left = rows - split.validation - (split.test or 0)
    train = left if split.train is None else split.train
    problems = _split(split, rows, train, num_classes)
    if not problems:
        if labels is not None and task == "classification":
            train = split.training_images(rows, labels)
        problems += _batches(study, train, unlabelled, image_shape)
        problems += _screening(study, train)
    if image_shape is not None:
        problems += _inputs(study, image_shape, num_classes, task, real_valued)
    problems += _task(study, task)
    problems += _class_weights(study, task)
    problems += _unlabelled(study, task, real_valued)
    if task == "classification":
        problems += _coverage(study, split)
    if problems:
        raise study.error(problems)


def _split(split: Split, rows: int, train: int, num_classes: int | None) -> list[tuple[str, str]]:
    test = split.test or 0
    left = rows - split.validation - test
    if left <= 0:
        name = "validation" if rows <= split.validation else "test"
        images = split.validation if name == "validation" else test
        message = f"found {images}, must leave some of the {rows} training images"
        return [(f"data.{name}", message)]
    if train > left:
        after = "validation and test" if test else "validation"
        remaining = f"{left} of the {rows} training images are left after {after}"
        message = f"found {train}, but only {remaining}"
        return [("data.train", message)]
    cut = {"validation": split.validation, "train": train or None, "test": split.test}
    if split.rule == "own":
        cut = {"train": split.train or None, "test": split.test}
    for name, count in cut.items():
        if split.rule != "last" and num_classes and count is not None and count < num_classes:
            message = f"a stratified split needs an image of each of the {num_classes} classes"
            return [(f"data.{name}", message)]
    return []


def _coverage(study: StudyDefinition, split: Split) -> Iterable[tuple[str, str]]:
    """A coverage that was asked for, which the validation split is too small to calibrate."""
    from distill_ray.metrics.conformal import fewest_images

    asked = study.confirm.coverage
    fewest = fewest_images(asked)
    if "coverage" in study.document.values.get("confirm", {}) and split.validation < fewest:
        message = (
            f"found {asked:g}, which takes at least {fewest} validation images to calibrate; there "
            f"are {split.validation}"
        )
        yield "confirm.coverage", message


def _screening(study: StudyDefinition, train: int) -> Iterable[tuple[str, str]]:
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
    study: StudyDefinition, train: int, unlabelled: int, image_shape: tuple[int, int, int] | None
) -> Iterable[tuple[str, str]]:
    """Batches that are larger than the training split, or the last of which is too small."""

    def images(recipe: Recipe) -> int:
        return train + unlabelled if recipe.method.takes_unlabelled else train

    resources = study.resources
    listed = isinstance(study.document.values["teachers"], list)
    trained: list[tuple[_Reach, int, int]] = []
    for index, group in enumerate(study.teachers):
        if group.recipe.epochs == 0:  # weights that are taken as they are
            continue
        path: Path = ("teachers", index) if listed else ("teachers",)
        reach = _Reach(group.recipe, path, None)
        trained.append((reach, resources.workers_per_teacher, train))
    student = _Reach(study.student, ("student",), study.search.space)
    trained.append((student, resources.workers_per_trial, images(study.student)))
    if unlabelled and any(drawn.name == "method" for drawn in study.search.space.dimensions):
        for count in (train, train + unlabelled):  # some methods may take them, others not
            trained.append((student, resources.workers_per_trial, count))
    for name, baseline in study.confirm.baselines.items():
        of_batches = (baseline.batch_size, baseline.accumulate)
        as_student = images(baseline) == images(study.student)
        if not as_student or of_batches != (study.student.batch_size, study.student.accumulate):
            reach = _Reach(baseline, ("confirm", "baselines", name), None)
            trained.append((reach, resources.workers_per_trial, images(baseline)))
    for reach, workers, count in trained:
        size, batches = max(reach.every("batch_size")), max(reach.every("accumulate"))
        if size <= count < size * batches:
            yield (
                dotted(reach.place("accumulate")[0]),
                f"found {batches}, and so many batches of {size} are more than the training "
                f"split's {count} images",
            )
        place = dotted(reach.place("batch_size")[0])
        for size in reach.every("batch_size"):
            message = _batch_problem(reach, size, count, workers, image_shape)
            if message:
                path = reach.place("batch_size")[0]
                value = f"found {size}" if _is_written(study, path) else f"is {size} by default"
                yield place, f"{value}, {message}"
                break


def _is_written(study: StudyDefinition, path: Path) -> bool:
    """Whether the study file, or an override, has the field."""
    values: Any = study.document.values
    for key in path:
        if isinstance(values, list) and not isinstance(key, int):
            values = values[0]  # the only group of teachers, in a list all the same
        there = isinstance(values, list) or (isinstance(values, Mapping) and key in values)
        if not there:
            return False
        values = values[key]
    return True


def _batch_problem(
    reach: _Reach, size: int, train: int, workers: int, image_shape: tuple[int, int, int] | None
) -> str:
    """What is wrong with batches of that size; empty if nothing is."""
    if size > train:
        return f"but the training split has only {train} images; set it to at most {train}"
    last = size if all(reach.values("drop_last")) else train % size or size
    remedy = "choose another" if last == size else "choose another, or set drop_last: true"
    if last < workers:
        return f"which leaves {last} images for {workers} workers in the last batch; {remedy}"
    versions = min(augmentation.copies for augmentation in reach.values("augmentation"))
    if last // workers * versions > 1 or image_shape is None:
        return ""
    image_shape = _shape_seen(reach.values("preprocessing")[0], image_shape)
    for model in reach.values("model"):
        if not _model_refused(model, image_shape) and not trains_on_one_image(model, image_shape):
            return (
                f"which leaves one image in the last batch of {train}, and {model} normalises over "
                f"the batch where its maps have one pixel; {remedy}"
            )
    return ""


def _class_weights(study: StudyDefinition, task: Task) -> Iterable[tuple[str, str]]:
    for name in ("class_weights", "imbalance"):
        if getattr(study.data, name) is not None and task == "regression":
            yield f"data.{name}", "is about classes, and regression has none; leave it out"
    if study.data.imbalance is not None and study.data.train == 0:
        yield "data.imbalance", "thins training images, and data.train is 0; leave it out"


def _unlabelled(study: StudyDefinition, task: Task, real_valued: bool) -> Iterable[tuple[str, str]]:
    """What keeps images without labels from being learned from."""
    if study.data.unlabelled is None:
        if study.data.train == 0:
            yield "data.train", "found 0, must be at least 1 where there is no data.unlabelled"
        if study.data.unlabelled_ratio is not None:
            yield "data.unlabelled_ratio", "is for images without labels; name them in unlabelled"
        return
    if study.data.train == 0:
        yield from _labels_needed(study)
    if task == "regression" or real_valued:
        yield "data.unlabelled", "is for classes of images, and this data set has others"
        return
    if not any(recipe.method.takes_unlabelled for recipe in _searched(study)):
        able = sorted(name for name, method in METHODS.items() if method().takes_unlabelled)
        yield (
            "data.unlabelled",
            f"no method of this study learns from images without labels; these do: "
            f"{', '.join(able)}",
        )


def _labels_needed(study: StudyDefinition) -> Iterable[tuple[str, str]]:
    """What needs labels in a study that trains on none."""
    if any(group.recipe.epochs for group in study.teachers):
        yield "data.train", "found 0, and there are teachers to train; name trained ones"
    if study.screen is not None:
        yield "screen", "measures training images, and data.train is 0; leave it out"
    recipes = {f"baseline {name}": recipe for name, recipe in study.confirm.baselines.items()}
    recipes |= {f"method {recipe.method.name!r}": recipe for recipe in _searched(study)}
    for name, recipe in recipes.items():
        if not recipe.method.takes_unlabelled:
            yield "data.train", f"found 0, and {name} learns from labels; leave it out"


def _searched(study: StudyDefinition) -> list[Recipe]:
    """The recipe of the student with every method and augmentation of the search."""
    space = study.search.space
    return [space.recipe(study.student, drawn) for drawn in combinations(space)]


def _task(study: StudyDefinition, task: Task) -> Iterable[tuple[str, str]]:
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
    study: StudyDefinition,
    image_shape: tuple[int, int, int],
    num_classes: int | None,
    task: Task,
    real_valued: bool,
) -> Iterable[tuple[str, str]]:
    """The models, augmentations and methods that cannot take such images, each where it is named
    first.
    """
    listed = isinstance(study.document.values["teachers"], list)
    space = study.search.space
    places: dict[tuple[str, str], str] = {}
    ensemble = [group.recipe for group in study.teachers for _ in group.seeds]

    def check(
        recipe: Recipe,
        section: str,
        place: str,
        searched: Mapping[str, str],
        learns_from: Sequence[str] = (),
    ) -> None:
        refusals = {
            "model": _model_refused(recipe.model, _shape_seen(recipe.preprocessing, image_shape)),
            "augmentation": _augmentation_refused(
                recipe.augmentation, image_shape, task, real_valued
            ),
            "method": _method_refused(recipe.method, task, real_valued),
        }
        if task == "regression" and recipe.keep == "best-accuracy":
            refusals["keep"] = (
                "counts correct answers, and regression has none; use best-nll or last"
            )
        if task == "regression" and recipe.label_smoothing:
            refusals["label_smoothing"] = "smooths classes, and regression has none; leave it out"
        if num_classes is not None and not any(refusals.values()):
            learned = members(study.teachers, learns_from) if recipe.method.needs_teachers else []
            teachers = [ensemble[place] for place in learned]
            refusals |= own_networks_refused(recipe, teachers, image_shape, num_classes)
            if not refusals.get("model") and not refusals.get("method"):
                refusals |= units_refused(recipe, teachers, image_shape, num_classes)
        for field, refusal in refusals.items():
            if refusal is not None:
                places.setdefault((section, refusal), searched.get(field, f"{place}.{field}"))

    for index, group in enumerate(study.teachers):
        place = f"teachers.{index}" if listed else "teachers"
        if group.recipe.answers_alone:
            if task != "classification":
                message = f"is for classes, and this data set is for {task}"
                places.setdefault((place, message), f"{place}.answers")
        else:
            check(group.recipe, place, place, {})
        if group.calibrate and task != "classification":
            message = f"found True, and a temperature is for classes; this data set is for {task}"
            places.setdefault((place, message), f"{place}.calibrate")
    for drawn in combinations(space):
        searched = {name.split(".")[0]: f"search.space.{name}" for name in reversed(drawn)}
        recipe = space.recipe(study.student, drawn)
        check(recipe, "student", "student", searched, study.learns_from)
    for name, baseline in study.confirm.baselines.items():
        groups = study.confirm.learns_from.get(name, study.learns_from)
        check(baseline, "student", f"confirm.baselines.{name}", {}, groups)
    for augmentation in study.screen.candidates if study.screen else ():
        refusal = _augmentation_refused(augmentation, image_shape, task, real_valued)
        if refusal is not None:
            places.setdefault(("student", refusal), "screen.candidates")
    return [(place, refusal) for (_, refusal), place in places.items()]


def _shape_seen(
    preprocessing: Preprocessing | None, image_shape: tuple[int, int, int]
) -> tuple[int, int, int]:
    """The shape of the images as a network gets them."""
    if preprocessing is None or preprocessing.size is None:
        return image_shape
    return image_shape[0], preprocessing.size, preprocessing.size


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
