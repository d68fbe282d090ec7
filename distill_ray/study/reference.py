"""The reference pages for people, made from the same declarations that a study file is read by."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any

from distill_ray.augmentation import AUGMENTATIONS
from distill_ray.methods import METHODS
from distill_ray.metric import METRICS, Metric
from distill_ray.models import ModelFamily, family_of, model_families
from distill_ray.models.preprocessing import Preprocessing
from distill_ray.study import schema
from distill_ray.study.recipes import COMMON
from distill_ray.study.schema import Entry, Section, paragraphs
from distill_ray.study.sections import (
    NAME_RULE,
    Budget,
    ForeignSection,
    Latency,
    Stop,
    TeacherLogitsSection,
)

_MADE = (
    "<!-- Made by `distill-ray schema --pages docs`; edit {of} in distill_ray, not this page. -->"
)

_STUDY_FILE = f"""\
# The study file

{_MADE.format(of="the declarations")}

A study file is YAML: a mapping of sections. `name`, `teachers` and `student` are required,
everything else has a default. Values are taken as written: `"3"` is text, `1e-3` a number; numbers
are those of YAML 1.2. `distill-ray validate FILE` lists the errors of the file,
or else those with the data, up to 20 at a time.

For completion and checks while you type, write the schema to a file, `distill-ray schema >
study.schema.json`, and name it in the first line of the study file, for editors with a YAML
language server:

```yaml
# yaml-language-server: $schema=study.schema.json
```

| section | |
|---|---|
| `name` | names the study in the store and in MLflow: {NAME_RULE} |
| `seed` | 0 or above; all seeds of teachers, trials and confirmations derive from it. Default 0 |
"""

_DATA = """\
### Folders with a data set

`source` may name a folder, or a URI such as `s3://bucket/folder`, in one of four forms.
`distill-ray data check FOLDER` looks at all of it: broken files, duplicates across splits, classes.

- **Parquet**: `train-00000-of-00002.parquet` and so on, `train.parquet`, or `train/0000.parquet` as
  the Hugging Face Hub converts data sets, in the folder itself or its folder `data`;
  `hf://datasets/OWNER/NAME` with `pip install 'distill-ray[hf]'`. The images are encoded, in a
  column `img` or `image` or the one that the metadata declare. The label is the column that the
  metadata declare as ClassLabel; without metadata the one called `label` or `fine_label`, of
  integers or text, or the only one. Where several could be meant, `label` must name one: nothing is
  guessed.
- **Tables of image files**: `train/metadata.csv` or `train/metadata.jsonl`, or `train.csv` beside
  the folder `train`; a column `file_name`, `filename`, `file`, `path`, `image` or `image_path` has
  the files, relative to the folder of the table or of the split, and the label is found as in
  Parquet. Where there are class folders too, they count, unless a table has a label of a usual
  name.
- **Tar files** as webdataset writes them: `train-000000.tar` and so on, each sample an image and a
  member `.cls`, a number or text, or `.json`, in which the label is a value; uncompressed.
- **Image folders**: `train/<class>/*.png`, at any depth below the class, or `<class>/*.png` alone,
  which are training images all; also .jpg, .jpeg, .jfif, .webp, .avif, .ppm, .pgm, .bmp, .gif,
  .tif and .tiff (grey AVIF images are grey from Pillow 13 on, which reads them as colour before).
  Files with other endings, hidden files and folders,
  folders of tools such as `__MACOSX`, and class folders without images are left out, and `validate`
  and `run` say how many. Links to files are followed; of folders only `train` and `test` themselves
  may be links, all others are left out.

The splits are called `train`, `test`, and `validation`, `valid`, `val` or `dev`. A validation split
is used as it is where `validation` is unset; with a number, so many images are cut from training
and validation images together. Where there is no test split, the validation split is taken for it
and another one cut from the training images, since many data sets hide the labels of their test
images. Where that is not wanted, or there is only a training split, `test` holds images of the
training split out, stratified by class like a validation split, for `confirm` to judge by. Nothing
is cross-validated.

`unlabelled` names a folder of more images, however they lie in it, without labels. They join the
training images of every student whose method can learn from them ([methods](methods/README.md)
say so): the teachers teach them, and the cross-entropy with the labels is averaged over the
others. `unlabelled_ratio` says how many there are for each training image, on average over the
batches; a fixed choice of them is made. Teachers, screening and other baselines see none. With
`train: 0` the students learn from no label at all; then the teachers must have been trained before,
and every baseline must take images without labels too.

`imbalance: 100` makes a long tail of the training images, as Cui et al. 2019
(https://arxiv.org/abs/1901.05555): with n training images and K classes, class k (from 0, in the
order of the labels) keeps n / K · 100^(-k / (K - 1)) of its images, at least one, chosen by `seed`.
Validation and test images stay as they are. It is part of what a job is, like the rest of the
split.

`class_weights: balanced` counts an image of class k with n / (C n_k) for n training images, n_k of
them of that class, and C classes, in every cross-entropy with the labels, of teachers and students.
Validation and test scores count all images alike; balanced accuracy and macro F1 are among them.
What is no cross-entropy with the labels is not weighted: the terms against the teachers, which
includes `target` of `dkd` and of `nkd`. `hydra`, `endd` and `proxy-endd` have no other terms, so
that only their teachers change.

Images are turned upright as their EXIF orientation says, alpha is dropped, of 16 bits per channel
the high byte is kept, and grey images become RGB if any image has colours. An image may have up to
50 million pixels and 100 MB; a row group of Parquet whose images unpack to more than 32 MB must not
unpack to more than 100 times its size in the file. Larger ones are refused before they take the
memory.
"""


_SPACE = """\
### The search space

Each line of `space` names a setting and the distribution it is drawn from:

| written | draws |
|---|---|
| `{uniform: [0.1, 1.0]}` | numbers, uniformly |
| `{log: [0.001, 0.1]}` | numbers, log-uniformly |
| `{int: [2, 8]}`, `{int: [1, 64], log: true}` | whole numbers |
| `{uniform: [0, 1], step: 0.25}`, `{int: [2, 8], step: 2}` | \
the lower limit plus multiples of the step |
| `{choice: [a, b]}` | one of these; augmentations may have settings: \
`{choice: [crop, {name: cutout, size: 8}]}` |
| `{..., when: {method: kd}}` | only where the choice `method` is `kd`; a list \
gives several values |

`augmentation.size` draws the setting `size` of the augmentation. A setting that only some methods
or augmentations have is drawn only with those, without a `when`.
"""


_RECIPE = """\
## Settings of a recipe

How teachers, the student and baselines are trained. The settings of the method are given beside
these; [methods](methods/README.md) lists them.

"""

_AUGMENTATIONS = """\
## Augmentations

The values of `augmentation`: how training images are augmented, for teachers and student alike.
"""

_METHODS = f"""\
# Methods

{_MADE.format(of="the docstrings of the methods")}

A `method` in a study file defines what a student learns from, how it is shaped, and what is
deployed. T is the temperature. Every setting can be searched, and so can the method: `method:
{{choice: [kd, latent-be]}}`. To add a method, see [extending](../extending.md).

| method | minimises | source |
|---|---|---|
"""

_MODELS = f"""\
# Models

{_MADE.format(of="the families of networks")}

What `model` names in a study file. A letter in the pattern of a name stands for a number: `wrn-d-k`
is `wrn-16-2`, `wrn-40-2` and so on: up to 1,000 layers, 100 times as wide, 10,000 units in a layer.
`distill-ray validate` says what is wrong with a name, or with the size of the images for it.

Every network starts from weights that its seed draws, unless
[`weights`](bring-your-own.md) says otherwise. It takes images with any
number of channels and normalises them by the mean and standard deviation of the training images. It
ends in a linear layer with an output per class or, for regression, with mean and log-variance. A
family of your own: [extending](extending.md#a-model).

| model | such as | |
|---|---|---|
"""

_SIZES = """\
The tables below have, for examples of each family,

- **weights** and **multiply-adds** for 100 classes and images of 3x32x32; a multiply-add is two
  FLOPs;
- **images**: the heights and widths that the network takes;
- **depth**: the largest that the heads of [hydra](methods/hydra.md) and [hydra+](methods/hydra+.md)
  can have, that is, how many units of the network, blocks or layers, a head can have to itself;
- **BatchEnsemble**: whether the network can become one, for [latent-be](methods/latent-be.md).

All other methods take any network.
"""

_METRICS = f"""\
# Metrics

{_MADE.format(of="the metrics")}

What predictions are scored by. `val/nll` is the NLL on the validation split: it is recorded after
every epoch, and `objectives` of a search name it with its direction, `{{val/nll: min}}`.
`test/nll`, in MLflow, is that of a confirmed student on the test split, which is read only once
everything is chosen. The table of the report is about the test split or, as long as nothing is
confirmed, about the validation split. A metric of your own: [extending](extending.md#a-metric).

| metric | objective | better | unit | |
|---|---|---|---|---|
"""

_SYMBOLS = """\
Everything is computed in double precision from what is predicted for each sample, with these
symbols:

- N samples; `y_n` is the label of sample n. `[...]` is 1 where the statement holds, else 0.
- `p_nk`: the predicted probability of class k; `ŷ_n`: the most probable class, the first of equals.
  Ensembles, and students with several heads or samples, predict the mean of their members'
  probabilities.
- `B_b`: the samples whose confidence, the probability of `ŷ_n`, lies in bin b of 15 bins of equal
  width, ((b - 1) / 15, b / 15]. `conf(B_b)` is their mean confidence, `acc(B_b)` the share of them
  that is classified correctly.
- `τ`: the temperature from 0.01 to 100 that minimises `N · NLL(τ) + 4 (1/τ - 1 + ln τ)` on the N
  images of the validation split: the NLL with a weak prior for τ = 1, which weighs near there as
  much as four images of which each determines ln τ with a variance of 1. Without it a network that
  makes no error on a small validation split gets a τ of 0.01, and its errors on other images cost
  hundreds of nats. On splits of a few hundred images it hardly matters. It is fitted to the
  predictions of the network that is scored; for an ensemble one is fitted to the mean.
- `μ_n`, `σ_n²`: the mean and variance predicted in regression. Ensembles predict those of their
  members' mixture.

Fractions are shown in percent by tables, reports and in `published`; MLflow and `report --json`
have them as they are.
"""

_OTHER_NUMBERS = """\
## Other numbers

- **T. stddev**, of a screening: how much the teachers' mean prediction varies from one group of
  batches to the next. A group is five batches and their augmented copies; the standard deviation
  over the groups is averaged over the classes. A lower one promises a better student (Wang et al.
  2022, https://arxiv.org/abs/2012.02909). Only equal batch sizes can be compared. Its interval
  (95 %) is by the jackknife: T. stddev again without each of 20 groups of images and without each
  teacher. Two augmentations are compared by the differences of these, since both were measured with
  the same images and teachers.
- **Disagreement**, in the report: the share of the samples for which two networks, or two heads of
  one, name different classes; the mean over all pairs.
- **Mutual information**, in the report: the entropy of the mean prediction less the mean entropy of
  the members, in nats. It is 0 where all predict the same.
- **Total, aleatoric and epistemic**, of `distill-ray uncertainty`: the entropy of the prediction,
  the mean entropy of the members, and their difference, in nats; for regression standard deviations
  (Depeweg et al. 2018, https://arxiv.org/abs/1710.07283).
- **AUROC**, of `confirm.foreign` and `distill-ray uncertainty`: the probability that, of a foreign
  image and one of the test split, the foreign one is the more uncertain; 0.5 for a set against
  itself. Uncertainty is the entropy of the prediction, and besides the largest probability (MSP),
  the energy `-ln(sum exp logit)` (Liu et al. 2020, https://arxiv.org/abs/2010.03759) and the mutual
  information of members, heads or samples.
- **FPR95**, of the same: the share of foreign images taken for familiar at the threshold that
  accepts 95 % of the test split. **AUPR**: the average precision with foreign images, or those of
  the test split, as the ones to find. Tables have these for the entropy, the JSON of `report` and
  `uncertainty` and MLflow for every doubt: `auroc`, `msp-fpr95`, `energy-aupr-foreign`,
  `epistemic-aupr-test`. Of sets that a study names each network keeps its prediction, energy and
  mutual information for every image in the store, so that all this is computed anew from there.
- **Corruptions**, of `distill-ray uncertainty --corruptions`: accuracy, NLL, ECE and the others on
  test images under the fifteen corruptions of Hendrycks & Dietterich 2019
  (https://arxiv.org/abs/1903.12261) at five severities: gaussian-noise, shot-noise, impulse-noise,
  defocus-blur, glass-blur, motion-blur, zoom-blur, snow, frost, fog, brightness, contrast, elastic,
  pixelate and jpeg; each value is the mean over the severities, and `corruptions` the mean over
  all. Frost blends in photographs, which come with the package imagecorruptions-imaug (Apache 2.0):
  without it there are fourteen, and `corruptions` says the mean of how many it is (`over`).
  `pip install --no-deps imagecorruptions-imaug` is all that is needed; what that package depends on
  would put a second OpenCV, which needs libGL and libX11, over ours.
  Parameters are those of CIFAR-10-C for images of up to 64 pixels and those of ImageNet-C above;
  lengths in pixels stay as they are. What is random depends on corruption, severity and the number
  of the image alone, so every contender sees the same images. They are not the published files:
  other random numbers, motion blur (also of snow) by the formula of ImageMagick instead of its
  code, and no second JPEG compression as in ImageNet-C. Figures for comparison with a paper come
  from its files, with `--shifted`. Images with 1 and 3 channels are corrupted alike; those with a
  side below 16 pixels are refused, since the parameters are made for 32 and more.
- **mCE**, of the same: the errors summed over the severities, relative to those of the student from
  scratch (`mce-scratch`), or of the ensemble in a study without it (`mce-ensemble`), and the mean
  over the corruptions; without frost it is not the mCE over fifteen of papers. The reference has 1;
  less is better. It is left out where the reference makes no error under some corruption. Published
  mCE are relative to AlexNet, and in percent.
- **params**, in the table: the weights of what is deployed; for an ensemble, those of all members.
"""


def pages() -> dict[str, str]:
    """Every reference page by its path in `docs`: the study file, models, metrics, and a page for
    each method.
    """
    methods = {f"methods/{name}": page for name, page in method_pages().items()}
    return {
        "study-file.md": study_file_page(),
        "models.md": models_page(),
        "metrics.md": metrics_page(),
    } | methods


_WITHIN: dict[str, dict[str, type]] = {
    "search": {"latency": Latency, "stop": Stop, "budget": Budget},
    "confirm": {"foreign": ForeignSection},
    "resources": {"teacher_logits": TeacherLogitsSection},
}
"""The sections within sections, which stand below these."""


def study_file_page() -> str:
    """`docs/study-file.md`: every section, field by field."""
    recipe = schema.recipe_entries()
    common = [
        entry for name, entry in recipe.items() if name in ("method", "augmentation", *COMMON)
    ]
    parts = [_STUDY_FILE]
    teachers, data, *others = schema.sections()
    for section in (data, teachers, *others):
        parts.append(_section(_without(section, recipe), 2))
        if section.name == "data":
            parts.append(_DATA)
        if section.name == "search":
            parts.append(_SPACE)
        for name, declared in _WITHIN.get(section.name, {}).items():
            parts.append(_section(schema.declared(name, declared), 3))
    parts.append(_RECIPE + "\n".join(_table(common)) + "\n")
    parts.append(_section(schema.declared("preprocessing", Preprocessing), 3))
    parts.append(_AUGMENTATIONS)
    for name in sorted(AUGMENTATIONS):
        parts.append(_section(schema.declared(name, AUGMENTATIONS[name]), 3))
    return "\n".join(parts)


def method_pages() -> dict[str, str]:
    """`docs/methods/`, by file name: an index, and each method with its formula, its source and its
    settings.
    """
    pages = {"README.md": _METHODS}
    for name in sorted(METHODS):
        method, (brief, source) = METHODS[name], method_in_brief(name)
        pages["README.md"] += f"| [{name}]({name}.md) | {_cell(brief)} | {_cell(source)} |\n"
        about, _, example = (inspect.getdoc(method) or "").partition("\n\nExample:\n\n")
        entries = schema.declared(name, method).entries
        teachers = "Learns from teachers" if method.needs_teachers else "Needs no teachers"
        if method().takes_unlabelled:
            teachers += ", and from images without labels (`data.unlabelled`)"
        parts = [
            f"# {name}",
            _MADE.format(of="the docstring of the method"),
            about,
            f"{teachers}; for {' and '.join(method.tasks)}. [All methods](README.md)",
        ]
        parts += ["## Settings", "\n".join(_table(entries))] if entries else []
        parts += ["## Example", example] if example else []
        pages[f"{name}.md"] = "\n\n".join(parts) + "\n"
    return pages


def models_page() -> str:
    """`docs/models.md`: every family of networks, with its source and what its examples take, cost
    and can become.
    """
    overview, sections = _MODELS, []
    for family in model_families():
        if "@" in family.examples[0]:
            continue  # a user's own file, which this process happens to have read
        brief, *details = family.help.split("\n\n")
        link = f"[{family.pattern}](#{anchor(family.pattern)})"
        overview += f"| {link} | `{family.examples[0]}` | {_cell(brief)} |\n"
        source = family.source and f"Source: {family.source}"
        parts = [f"## {family.pattern}", brief, *details, source, "\n".join(_examples(family))]
        sections.append("\n\n".join(filter(None, parts)) + "\n")
    return "\n".join([overview, _SIZES, *sections])


def metrics_page() -> str:
    """`docs/metrics.md`: every metric with its formula, its unit, what it is good for and its
    source.
    """
    overview, sections = _METRICS, []
    for name, metric in METRICS.items():
        cells = [
            f"[{metric.title}](#{anchor(metric.title)})",
            f"`val/{name}: {metric.better}`" if metric.objective else "",
        ]
        cells += ["higher" if metric.better == "max" else "lower", _unit(metric), metric.meaning]
        overview += f"| {' | '.join(map(_cell, cells))} |\n"
        formula = metric.formula and f"```math\n{metric.formula.strip()}\n```"
        source = metric.source and f"Source: {metric.source}"
        about = (
            f"{metric.meaning[:1].upper()}{metric.meaning[1:]}. For {' and '.join(metric.tasks)}."
        )
        parts = [f"## {metric.title}", about, formula, metric.help, source]
        sections.append("\n\n".join(filter(None, parts)) + "\n")
    return "\n".join([overview, _SYMBOLS, *sections, _OTHER_NUMBERS])


def method_in_brief(name: str) -> tuple[str, str]:
    """The first paragraph of a method's docstring, and what its paragraph `Source:` says, or
    nothing.
    """
    first, *others = paragraphs(METHODS[name]).split("\n\n")
    return first, next(
        (text.removeprefix("Source: ") for text in others if text.startswith("Source: ")), ""
    )


def _examples(family: ModelFamily) -> Iterator[str]:
    """The table of a family's examples; those that begin alike and of which the same is to be said
    share a line.
    """
    lines: dict[tuple[str, ...], list[str]] = {}
    for name in family.examples:
        _, arguments = family_of(name)
        plain = "yes" if family.plain_layers(**arguments) else "no"
        cells = [_images(family, arguments), str(family.units(**arguments) - 1), plain]
        if family.sizes:
            size = family.sizes.get(name)
            cells = [
                f"{size.weights:,}" if size else "",
                f"{size.multiply_adds / 1e6:,.1f} M" if size else "",
                *cells,
            ]
        beginning = re.split(r"[\d_]", name)[0]
        lines.setdefault((beginning, *cells), []).append(f"`{name}`")
    numbers = ["weights", "multiply-adds"] if family.sizes else []
    yield f"| {' | '.join(['example', *numbers, 'images', 'depth', 'BatchEnsemble'])} |"
    yield f"|---|{'---:|' * len(numbers)}---|---:|---|"
    yield from (
        f"| {', '.join(names)} | {' | '.join(cells)} |" for (_, *cells), names in lines.items()
    )


def _images(family: ModelFamily, arguments: dict[str, Any]) -> str:
    """Which sizes of images a network takes, found by asking its family for each."""
    sides = range(1, 2 * 224 + 1)
    taken = [side for side in sides if _takes(family, (3, side, side), arguments)]
    if not taken:
        return f"none up to {sides[-1]}x{sides[-1]}"
    least = taken[0]
    if taken == [*sides[least - 1 :]]:
        return "any" if least == 1 else f"from {least}x{least}"
    if taken == [*sides[least - 1 :: least]] and not _takes(
        family, (3, least, 2 * least), arguments
    ):
        return f"squares with a side of {least}, {2 * least}, {3 * least}, ..."
    return f"{least}x{least}, and some that are larger"


def _takes(
    family: ModelFamily, image_shape: tuple[int, int, int], arguments: dict[str, Any]
) -> bool:
    try:
        family.check_images(image_shape, **arguments)
    except ValueError:
        return False
    return True


def _unit(metric: Metric) -> str:
    return metric.unit or ("fraction, shown in %" if metric.percent else "")


def anchor(heading: str) -> str:
    """What GitHub calls a heading in links."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _without(section: Section, recipe: Iterable[str]) -> Section:
    """A section without the settings of a recipe, which stand in a table of their own."""
    if section.name not in ("teachers", "student"):
        return section
    entries = tuple(entry for entry in section.entries if entry.name not in recipe)
    return Section(section.name, section.about, entries)


def _section(section: Section, level: int) -> str:
    parts = [f"{'#' * level} {section.name}", section.about, "\n".join(_table(section.entries))]
    return "\n\n".join(filter(None, parts)) + "\n"


def _table(entries: Iterable[Entry]) -> Iterator[str]:
    lines = [_line(entry.name, entry.takes, entry.default, entry.help) for entry in entries]
    if lines:
        yield from ("| field | takes | default | |", "|---|---|---|---|", *lines)


def _line(name: str, *cells: str) -> str:
    linked = (re.sub(r"docs/([\w-]+\.md)", r"[\g<0>](\1)", text) for text in cells)
    return f"| `{name}` | {' | '.join(map(_cell, linked))} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
