"""A first study file: from a data set and trained teachers, or a copy of one that is published."""

from __future__ import annotations

import json
import logging
import re
import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distill_ray.data import Source, image_shape, open_source
from distill_ray.data.survey import sampled_sizes
from distill_ray.errors import RequestError
from distill_ray.escaping import for_terminal
from distill_ray.planning.within import (
    Measured,
    measured_text,
    networks_within,
    trials_within,
)
from distill_ray.registry import unknown_name
from distill_ray.report.format import duration
from distill_ray.resolve import check_source
from distill_ray.study import StudyDefinition
from distill_ray.study.document import parse_document
from distill_ray.study.parse import read_study

logger = logging.getLogger(__name__)

LARGEST_SIDE = 224
"""Side above which images are made smaller."""

SMALL, MEDIUM = 16, 64
"""Sides up to which the smallest and the medium networks are proposed."""

SPARE = 10
"""Trials within a budget, as a multiple of what a plan says fit: where the machine is faster, the
rest of the time is for more of them.
"""

VERSIONS = 8
"""Augmented versions of each image: teachers answer once for each, and not in every epoch of every
trial and seed.
"""

BATCH_SIZES = (64, 32, 16, 8, 4)


def published_studies() -> dict[str, Path]:
    """The study files that come with this package, by name."""
    package = Path(__file__).parents[1]
    # In a wheel they are part of the package, in a clone beside it
    folders = (package / "studies", package.parent / "studies")
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def published_study(name: str, out: str) -> dict[Path, str]:
    """The files of a study that comes with this package, with their texts: the study file, to be
    written to `out`, and beside it the Python files that its comments name.

    Raises `RequestError` when there is none of that name.
    """
    studies = published_studies()
    if name not in studies:
        raise RequestError(f"--study: {unknown_name('study', name, list(studies))}")
    folder, target = studies[name].parent, Path(out)
    scripts = re.findall(r"studies/(\w+\.py)", studies[name].read_text("utf-8"))
    copies = {studies[name].name: target} | {file: target.with_name(file) for file in scripts}
    texts = {}
    for file, copy in copies.items():
        text = (folder / file).read_text("utf-8")
        for other, place in copies.items():
            text = text.replace(f"studies/{other}", str(place))
        texts[copy] = text
    return texts


def first_study(
    folder: str,
    teachers: Sequence[str],
    out: str,
    latency_ms: float | None = None,
    budget: float | None = None,
) -> str:
    """The text of a study that is valid for these data.

    Args:
        folder: The data set.
        teachers: Files of weights.
        out: The file that it is to be written to.
        latency_ms: The most that a student may take to answer for an image. Networks of several
            families are measured, and those that keep within it are searched.
        budget: Seconds that the study may take on this machine. It gets as many trials as a plan
            says fit.

    Raises:
        RequestError: the data set cannot be used, a file of weights cannot be read, or nothing
            keeps within the latency or the budget.
    """
    source = open_source(folder, named_by="DATA")
    if source.rows("test") == 0:
        source = open_source(folder, cuts_test=True, named_by="DATA")
    data = _Data.of(source, folder)
    given = [
        data.teacher(file, name)
        for file, name in zip(teachers, _group_names(teachers), strict=True)
    ]
    known = any(group.startswith("  - ") for group in given)
    problem: RequestError | None = None
    for batch_size in BATCH_SIZES:
        groups = given if known else [*given, data.trained_teachers(batch_size)]
        first = _Draft(data, "\n".join(groups), batch_size, out)
        try:
            first.checked()
        except RequestError as error:
            problem = problem or error
        else:
            return first.within(latency_ms, budget).text
    assert problem is not None
    raise problem


@dataclass(frozen=True)
class _Draft:
    """A study file in the making."""

    data: _Data
    teachers: str
    batch_size: int
    out: str
    latency_ms: float | None = None
    networks: tuple[Measured, ...] = ()
    trials: int = 20
    budget: float | None = None

    @property
    def text(self) -> str:
        """The file as it is now."""
        return self.data.study(self)

    def checked(self) -> StudyDefinition:
        """The study; raises `RequestError` when it is not valid for the data."""
        study = read_study(parse_document(self.text, self.out))
        check_source(study, self.data.source)
        return study

    def within(self, latency_ms: float | None, budget: float | None) -> _Draft:
        """The same within a latency, in milliseconds, and a budget, in seconds."""
        draft = self
        if latency_ms is not None:
            draft = replace(draft, latency_ms=latency_ms)
            networks = networks_within(draft.checked(), self.data.shape, latency_ms)
            draft = replace(draft, networks=tuple(networks))
        if budget is not None:
            draft = replace(draft, trials=trials_within(draft.checked(), budget), budget=budget)
        draft.checked()
        return draft


def _caps(draft: _Draft) -> str:
    """How long the search may be."""
    if draft.budget is None:
        return "  trials: 20"
    seconds = round(draft.budget)
    limit = f"{seconds}s" if seconds % 60 else f"{seconds // 60}m"
    return (
        f"  trials: {SPARE * draft.trials:<22}# at most; {draft.trials} fit on this machine into "
        f"{duration(draft.budget)}, by `plan`\n"
        f"  study_time_limit: {limit:<12}# the search ends when confirming needs "
        "what is left of it"
    )


def _limits(draft: _Draft) -> str:
    """What a student may cost, and the networks that keep within it."""
    if draft.latency_ms is None:
        return ""
    limit = f"  limits: {{latency-ms: {draft.latency_ms:g}}}"
    lines = [f"{limit:<32}# of one image, on one thread: docs/search.md"]
    if draft.networks:
        lines += textwrap.wrap(
            f"Measured here: {measured_text(draft.networks)}.",
            width=108,
            initial_indent="  # ",
            subsequent_indent="  # ",
        )
    return "\n".join(lines) + "\n"


def _searched_networks(networks: Sequence[Measured]) -> str:
    """The line of the space with the networks, where there are several."""
    if len(networks) < 2:
        return ""
    names = ", ".join(network.model for network in networks)
    return f"    model: {{choice: [{names}]}}\n"


def _name_of(path: str) -> str:
    """A name for what lies at `path`; empty where that has no character for one."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(path).stem).strip("-._")[:90]


def _group_names(files: Sequence[str]) -> list[str]:
    """A name for the group of each file, no two alike."""
    names: list[str] = []
    for number, file in enumerate(files, start=1):
        name = _name_of(file) or "teacher"
        names.append(f"{name}-{number}" if name in names else name)
    return names


@dataclass(frozen=True)
class _Data:
    """What the study file says of the data set."""

    source: Source
    folder: str
    size: int | None
    """The side that images are made squares of; None where all have one size."""
    shape: tuple[int, int, int]
    seen: str

    @classmethod
    def of(cls, source: Source, folder: str) -> _Data:
        sizes = sampled_sizes(source)
        if not sizes:
            raise RequestError(f"{source.location}: no image of the training split can be read")
        smallest, largest = min(sizes), max(sizes)
        shorter = statistics.median_low(min(side) for side in sizes)
        sides = f"{smallest[0]}x{smallest[1]}"
        if smallest != largest:
            sides += f" to {largest[0]}x{largest[1]}"
        size = None
        if smallest != largest or shorter > LARGEST_SIDE:
            size = min(LARGEST_SIDE, max(8, shorter // 8 * 8))
        return cls(source, folder, size, image_shape(source, size), sides)

    def study(self, draft: _Draft) -> str:
        out, networks = draft.out, draft.networks
        name = _name_of(out) or "first-study"
        student = networks[0].model if networks else self._networks()[1]
        return f"""\
# Written by `distill-ray init`. What is left out has a default; docs/study-file.md has every field.
#   distill-ray validate {for_terminal(out)}
#   distill-ray plan {for_terminal(out)}        jobs and time on this machine
#   distill-ray run {for_terminal(out)} --export student

name: {json.dumps(name)}          # names the study in the store and in MLflow

data:
{self._section()}

teachers:
{draft.teachers}

student:                        # what every trial starts from
  model: {student}
  method: kd                    # learn from labels and from the teachers' softened outputs
  temperature: 4                # how much they are softened
  alpha: 0.9                    # how much the teachers count; the labels get the rest
  epochs: 30
  batch_size: {draft.batch_size}
  lr: 0.05
  augmentation: crop-flip       # crop where a mirrored image means something else, as for digits
  versions: {VERSIONS:<20}# of an image; teachers answer once for each: docs/versions.md

search:
{_caps(draft)}
  objectives: {{val/nll: min}}    # name several for a Pareto front (then with scheduler: none)
{_limits(draft)}  space:                        # settings of the student: uniform, log, int, choice
    temperature: {{log: [1, 20]}}
    alpha: {{uniform: [0.1, 1.0]}}
    augmentation: {{choice: [crop, crop-flip, cutout]}}
{_searched_networks(networks)}
confirm:                        # train the winner and the baselines again, then read test images
  seeds: 3
  baselines: [scratch, default-kd]

resources: {{cpus_per_worker: 1, gpus_per_worker: 0}}  # on a GPU: gpus_per_worker: 1
"""

    def _section(self) -> str:
        source = self.source
        own, classes = source.validation_rows, source.num_classes
        train, test = source.rows("train") - own, source.rows("test")
        names = ", ".join(map(for_terminal, source.class_names[:8]))[:60]
        more = ", ..." if classes > 8 or len(names) == 60 else ""
        counts = f"{train:,} training" + (f", {own:,} validation" if own else "")
        counts += f" and {test:,} test images" if test else " images, no test split"
        lines = [
            f"  # {counts} of {classes} classes: {names}{more}",
            f"  # `distill-ray data check {for_terminal(self.folder)}` looks at every one of them.",
            f"  source: {json.dumps(self.folder, ensure_ascii=False)}",
        ]
        if self.size is not None:
            lines.append(
                f"  size: {self.size:<24}# images of {self.seen} are resized and cropped to squares"
            )
        held_out = max(classes, train // 10)
        if not test:
            lines.append(
                f"  test: {held_out:<24}# training images held out; only `confirm` reads them"
            )
        if not own:
            lines.append(
                f"  validation: {held_out:<18}# training images held out for every choice that is "
                "made"
            )
        if source.label != "label":
            lines.append(f"  label: {json.dumps(source.label, ensure_ascii=False)}")
        return "\n".join(lines)

    def trained_teachers(self, batch_size: int) -> str:
        """An ensemble that the study trains itself."""
        return f"""\
  members: 3                    # networks that differ only in their random seed
  model: {self._networks()[0]}
  epochs: 30
  batch_size: {batch_size}
  lr: 0.05
  augmentation: crop-flip"""

    def teacher(self, file: str, name: str) -> str:
        """The group of a file of weights; as comments where its architecture is not known, or the
        classes of its outputs.
        """
        from distill_ray.models.recognise import recognise
        from distill_ray.models.weights import read_weights

        try:
            content = Path(file).expanduser().read_bytes()
        except OSError as error:
            raise RequestError(f"--teacher {file}: {error.strerror}") from None
        architecture = recognise(
            read_weights(content, Path(file).name),
            Path(file).name,
            num_classes=self.source.num_classes,
            image_shape=self.shape,
        )
        weights = json.dumps(file, ensure_ascii=False)
        unknown = architecture is None or not architecture.same_classes
        lines = [f"- name: {json.dumps(name)}"]
        if architecture is None:
            lines.append("  model: FILL IN               # none of the catalogue: docs/models.md")
        else:
            lines.append(
                f"  model: {architecture.model:<22}  # recognised by the tensors of the file"
            )
        lines.append(f"  weights: {weights}")
        size = architecture.side if architecture else None
        lines.append(
            "  # How the weights want images, in [0, 1] unless value_range says otherwise; unset: "
            "docs/bring-your-own.md"
        )
        if size is not None:
            lines.append(f"  preprocessing: {{size: {size}}}")
        else:
            lines.append("  # preprocessing: {mean: [...], std: [...], size: 224}")
        if architecture is not None and not architecture.same_classes:
            lines.append("  classes: [FILL IN]            # the class of each output, in order")
        else:
            lines.append("  # classes: [...]              # where outputs have another order")
        if unknown:
            unknown_part = (
                "its architecture" if architecture is None else "the classes of its outputs"
            )
            logger.warning(
                "%s: %s could not be told; fill it in where the file says FILL IN, and remove "
                "the # before its lines",
                file,
                unknown_part,
            )
            return "\n".join(f"  # {line}" for line in lines)
        return "\n".join(f"  {line}" for line in lines)

    def _networks(self) -> tuple[str, str]:
        """A teacher and a student for images of this size."""
        side = min(self.shape[1:])
        if side <= SMALL:
            return "wrn-10-1", "wrn-10-1"
        if side <= MEDIUM:
            return "wrn-16-2", "wrn-10-1"
        return "torchvision/resnet18", "torchvision/mobilenet_v3_small"
