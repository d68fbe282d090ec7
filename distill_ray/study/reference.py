"""The reference pages for people, made from the same declarations that a study file is read by."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator

from distill_ray.augment import VIEWS
from distill_ray.methods import METHODS
from distill_ray.settings import setting_fields
from distill_ray.study import schema
from distill_ray.study.read_confirm import NAME_RULE
from distill_ray.study.recipes import COMMON
from distill_ray.study.schema import Entry, Section, paragraphs

_HEAD = """\
# The study file

<!-- Made by `distill-ray schema --markdown`; edit the declarations in distill_ray, not this page. -->

A study file is YAML: a mapping of sections. `name`, `teachers` and `student` are required, everything else has a default. Values
are taken as written: `"3"` is text, `1e-3` a number. `distill-ray validate FILE` lists all errors at once.

For completion and checks while you type, write the schema to a file, `distill-ray schema > study.schema.json`, and name it in the
first line of the study file, for editors with a YAML language server:

```yaml
# yaml-language-server: $schema=study.schema.json
```

| section | |
|---|---|
| `name` | names the study in the store and in MLflow: {name_rule} |
| `seed` | 0 or above; all seeds of teachers, trials and confirmations derive from it. Default 0 |
"""

_SPACE = """\
### The search space

Each line of `space` names a setting and the distribution it is drawn from:

| written | draws |
|---|---|
| `{uniform: [0.1, 1.0]}` | numbers, uniformly |
| `{log: [0.001, 0.1]}` | numbers, log-uniformly |
| `{int: [2, 8]}`, `{int: [1, 64], log: true}` | whole numbers |
| `{uniform: [0, 1], step: 0.25}`, `{int: [2, 8], step: 2}` | the lower limit plus multiples of the step |
| `{choice: [a, b]}` | one of these; views may have settings: `{choice: [crop, {name: cutout, size: 8}]}` |
| `{..., when: {method: kd}}` | only where the choice `method` is `kd`; a list gives several values |

`augment.size` draws the setting `size` of the view. A setting that only some methods or views have is drawn only with those,
without a `when`.
"""


_MADE = "<!-- Made by `distill-ray schema --methods docs/methods`; edit the docstrings of the methods, not these pages. -->"

_METHODS = f"""\
# Methods

{_MADE}

A `method` in a study file defines what a student learns from, how it is shaped, and what is deployed. T is the temperature. Every
setting can be searched, and so can the method: `method: {{choice: [kd, latent-be]}}`. To add a method, see
[extending](../extending.md).

| method | minimises | source |
|---|---|---|
"""


def study_file_page() -> str:
    """`docs/study-file.md`: every section, field by field."""
    recipe = schema.recipe_entries()
    own = {"method", "augment", *COMMON}
    common = Section("settings", "", tuple(entry for name, entry in recipe.items() if name in own))
    parts = [_HEAD.replace("{name_rule}", NAME_RULE)]
    for section in (
        schema.data_section(),
        _without(schema.teacher_section(), recipe),
        _without(schema.student_section(), recipe),
        schema.screen_section(),
        schema.search_section(),
        schema.confirm_section(),
        schema.published_section(),
        schema.resources_section(),
    ):
        parts.append("\n".join(_section(section, 2)))
        if section.name == "search":
            parts.append(_SPACE)
    parts.append(
        "## Settings of a recipe\n\nHow teachers, the student and baselines are trained. The settings of the method are given "
        "beside these; [methods](methods/README.md) lists them.\n\n" + "\n".join(_table(common.entries)) + "\n"
    )
    parts.append("## Views\n\nThe values of `augment`: how training images are augmented, for teachers and student alike.\n")
    for name in sorted(VIEWS):
        entries = tuple(Entry.of(field) for field in setting_fields(VIEWS[name]).values())
        parts.append("\n".join(_section(Section(name, paragraphs(VIEWS[name]), entries), 3)))
    return "\n".join(parts)


def method_pages() -> dict[str, str]:
    """`docs/methods/`, by file name: an index, and each method with its formula, its source and its settings."""
    pages = {"README.md": _METHODS}
    for name in sorted(METHODS):
        method, (brief, source) = METHODS[name], method_in_brief(name)
        pages["README.md"] += f"| [{name}]({name}.md) | {_cell(brief)} | {_cell(source)} |\n"
        about, _, example = (inspect.getdoc(method) or "").partition("\n\nExample:\n\n")
        entries = tuple(Entry.of(field) for field in setting_fields(method).values())
        teachers = "Learns from teachers" if method.needs_teachers else "Needs no teachers"
        parts = [f"# {name}", _MADE, about, f"{teachers}; for {' and '.join(method.tasks)}. [All methods](README.md)"]
        parts += ["## Settings", "\n".join(_table(entries))] if entries else []
        parts += ["## Example", example] if example else []
        pages[f"{name}.md"] = "\n\n".join(parts) + "\n"
    return pages


def method_in_brief(name: str) -> tuple[str, str]:
    """The first paragraph of a method's docstring, and what its paragraph `Source:` says, or nothing."""
    first, *others = paragraphs(METHODS[name]).split("\n\n")
    return first, next((text.removeprefix("Source: ") for text in others if text.startswith("Source: ")), "")


def _without(section: Section, recipe: Iterable[str]) -> Section:
    entries = tuple(entry for entry in section.entries if entry.name not in recipe)
    return Section(section.name, section.about, entries)


def _section(section: Section, level: int) -> Iterator[str]:
    yield f"{'#' * level} {section.name}\n"
    yield f"{section.about}\n"
    yield from _table(section.entries)
    yield ""


def _table(entries: Iterable[Entry]) -> Iterator[str]:
    lines = [_line(entry.name, entry.takes, entry.default, entry.help) for entry in entries]
    if lines:
        yield from ("| field | takes | default | |", "|---|---|---|---|", *lines)


def _line(name: str, *cells: str) -> str:
    return f"| `{name}` | {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
