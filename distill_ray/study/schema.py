"""What a study file may hold, section by section: as JSON Schema for editors, made from the
declarations that reading goes by.

`reference` makes the pages for people from the same `Section`s.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from distill_ray.augmentation import AUGMENTATIONS
from distill_ray.job import Recipe
from distill_ray.methods import METHODS
from distill_ray.metric import objectives
from distill_ray.settings import Setting, SettingField, setting_fields
from distill_ray.study.fields import json_schema, number_type, requirement
from distill_ray.study.parse_confirm import BUILT_IN, NAME
from distill_ray.study.recipes import COMMON
from distill_ray.study.sections import (
    MAX_SEED,
    Asha,
    Confirm,
    DataSection,
    Published,
    Resources,
    Screen,
    Search,
)

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A field of a section: what it takes in words and as JSON Schema, its default in words, and
    what it means.
    """

    name: str
    takes: str
    default: str
    help: str
    schema: Schema

    @classmethod
    def of(cls, field: SettingField) -> Entry:
        """The entry of a declared setting."""
        schema = json_schema(field)
        if not field.required:
            schema["default"] = (
                list(field.default) if isinstance(field.default, tuple) else field.default
            )
        return cls(field.name, requirement(field), shown_default(field), field.setting.help, schema)


@dataclass(frozen=True)
class Section:
    """A section of the study file. `required` names the fields that cannot be left out."""

    name: str
    about: str
    entries: tuple[Entry, ...]
    required: tuple[str, ...] = ()

    def schema(self) -> Schema:
        """The section as JSON Schema: no other fields are allowed."""
        properties = {
            entry.name: {"description": entry.help} | entry.schema for entry in self.entries
        }
        schema: Schema = {
            "type": "object",
            "properties": properties,
            "additionalProperties": False,
            "description": self.about,
        }
        return schema | ({"required": list(self.required)} if self.required else {})


def study_schema() -> Schema:
    """The JSON Schema of study files. It knows every method, augmentation and setting, those of
    installed extensions included.

    What fields ask of each other is left to `distill-ray validate`.
    """
    teachers = {"$ref": "#/$defs/teachers"}
    top = {
        "name": {
            "type": "string",
            "pattern": f"^{NAME.pattern}$",
            "description": "names the study in the store and in MLflow",
        },
        "data": data_section().schema(),
        "teachers": {"anyOf": [teachers, {"type": "array", "items": teachers, "minItems": 1}]},
        "student": student_section().schema(),
        "screen": screen_section().schema(),
        "search": search_section().schema(),
        "confirm": confirm_section().schema(),
        "published": published_section().schema(),
        "resources": resources_section().schema(),
        "seed": {
            "type": "integer",
            "minimum": 0,
            "maximum": MAX_SEED,
            "default": 0,
            "description": "all other seeds derive from it",
        },
    }
    return {
        "$schema": DIALECT,
        "title": "distill-ray study",
        "type": "object",
        "required": ["name", "teachers", "student"],
        "properties": top,
        "additionalProperties": False,
        "$defs": {"augmentation": _augmentation(), "teachers": teacher_section().schema()}
        | {f"setting.{name}": each.schema for name, each in recipe_entries().items()},
    }


def recipe_entries() -> dict[str, Entry]:
    """The settings of a recipe by name: method and augment, the common ones, and those of all
    methods.
    """
    fields = setting_fields(Recipe)
    entries = {
        "model": dataclasses.replace(Entry.of(fields["model"]), takes="the name of a model"),
        "method": Entry(
            "method",
            "the name of a method",
            "kd; supervised for teachers",
            fields["method"].setting.help,
            _named(METHODS),
        ),
        "augmentation": Entry(
            "augmentation",
            "the name of an augmentation, or {name: ..., setting: ...}",
            "crop-flip",
            fields["augmentation"].setting.help,
            _AUGMENT,
        ),
    }
    entries |= {name: Entry.of(fields[name]) for name in COMMON if name != "model"}
    owners: dict[str, dict[str, SettingField]] = {}
    for method in sorted(METHODS):
        for name, field in setting_fields(METHODS[method]).items():
            owners.setdefault(name, {})[method] = field
    return entries | {
        name: _shared(name, fields) for name, fields in owners.items() if name not in entries
    }


def data_section() -> Section:
    """Which images."""
    return _declared(
        "data", "Which images the study is about, and how the validation split is cut.", DataSection
    )


def teacher_section() -> Section:
    """One group of teachers."""
    members = Setting("number of teachers, with consecutive seeds", at_least=1, at_most=100)
    seeds = Setting("one teacher per seed, instead of members", at_least=0, at_most=MAX_SEED)
    own = (
        Entry.of(SettingField("members", int, members, 3)),
        Entry.of(SettingField("seeds", tuple[int, ...] | None, seeds, None)),
        Entry(
            "name",
            "text",
            "",
            "name of the group, if there are several",
            {"type": "string", "pattern": f"^{NAME.pattern}$"},
        ),
    )
    about = (
        "The ensemble: one group of identically trained networks, or a list of such groups. Any setting of a recipe can be "
        "given; `model` is required."
    )
    return Section("teachers", about, (*own, *_references(recipe_entries())), required=("model",))


def student_section() -> Section:
    """What trials start from."""
    groups = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    own = Entry(
        "teachers",
        "names of groups of teachers",
        "all of them",
        "the teachers it learns from",
        groups,
    )
    about = "The configuration every trial starts from. Any setting of a recipe can be given; `model` is required."
    return Section("student", about, (own, *_references(recipe_entries())), required=("model",))


def screen_section() -> Section:
    """Which augmentations are measured."""
    augmentations = {"type": "array", "items": _AUGMENT, "minItems": 1}
    own = Entry(
        "candidates",
        "a list of augmentations",
        "the choices of augmentation in the search",
        "the augmentations to measure",
        augmentations,
    )
    return _declared(
        "screen",
        "Augmentations are ranked with the teachers alone, before any student is trained, by T. stddev: the standard deviation "
        "over groups of batches of the teachers' mean prediction (Wang et al. 2022), lower being better. If this section is "
        "absent, nothing is screened. Values are comparable only between screenings with the same batch_size.",
        Screen,
        own,
    )


def search_section() -> Section:
    """How the student is searched."""
    directions = {
        name: {"const": better, "description": f"{better} is better"}
        for name, better in objectives().items()
    }
    asha = _declared("scheduler", paragraphs(Asha), Asha).schema()
    asha["properties"] = {"name": {"const": "asha"}} | asha["properties"]
    settings = recipe_entries()
    return _declared(
        "search",
        "How the student's settings are searched.",
        Search,
        Entry(
            "objectives",
            f"metrics with their direction: {', '.join(f'{name}: {better}' for name, better in objectives().items())}",
            "{val/nll: min}",
            "what is optimised, as docs/metrics.md defines it; several give a Pareto front, ranked by the first",
            {
                "type": "object",
                "properties": directions,
                "additionalProperties": False,
                "minProperties": 1,
            },
        ),
        Entry(
            "scheduler",
            "asha, none, or {name: asha, grace_epochs: 3, reduction: 3}",
            "asha with one objective, none with several",
            "what stops unpromising trials early",
            {"anyOf": [{"enum": ["asha", "none"]}, asha]},
        ),
        Entry(
            "time_limit",
            "a length of time with its unit: 90s, 45m, 2h, 1h30m",
            "none",
            "limit for the whole search",
            {"anyOf": [{"type": "string", "pattern": r"^(\d+(\.\d+)?[smhd])+$"}, {"type": "null"}]},
        ),
        Entry(
            "try_first",
            "a list of configurations: [{temperature: 4, augmentation: crop}]",
            "[]",
            "configurations of the first trials, in place of the sampler's",
            {
                "type": "array",
                "items": Section(
                    "", "one trial", (*_references(settings), *_augmentation_settings())
                ).schema(),
            },
        ),
        Entry(
            "space",
            "setting: {uniform | log | int: [low, high]} or {choice: [...]}; see below",
            "temperature {log: [1, 20]}, alpha {uniform: [0.1, 1]}, where the method has them",
            "settings of the student that trials draw",
            {
                "type": "object",
                "properties": _space(settings),
                "additionalProperties": False,
                "minProperties": 1,
            },
        ),
    )


def confirm_section() -> Section:
    """What is trained again and evaluated."""
    recipe = Section(
        "baseline", "what differs from the student", tuple(_references(recipe_entries()))
    ).schema()
    recipe["properties"]["teachers"] = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    mean = {
        "type": "object",
        "description": "the mean prediction of others, or of one's runs",
        "properties": {
            "ensemble": {"type": "array", "items": {"type": "string"}, "minItems": 1},
            "shares": {"type": "array", "items": {"type": "number", "minimum": 0}},
        },
        "required": ["ensemble"],
        "additionalProperties": False,
    }
    listed = {"type": "array", "items": {"enum": list(BUILT_IN)}}
    named = {
        "type": "object",
        "propertyNames": {"pattern": f"^{NAME.pattern}$"},
        "additionalProperties": {"anyOf": [recipe, mean, {"type": "null"}]},
    }
    own = Entry(
        "baselines",
        f"a list of {', '.join(BUILT_IN)}, or {{name: {{setting: value}}}} with what differs from the student, "
        "or {name: {ensemble: [best], shares: []}}",
        "[scratch, default-kd]",
        "what the best student is compared with, besides the teachers",
        {"anyOf": [listed, named]},
    )
    return _declared(
        "confirm",
        "What is trained again over several seeds and evaluated on the test split, which is read only here.",
        Confirm,
        own,
    )


def published_section() -> Section:
    """A published table."""
    row = {
        "type": "object",
        "properties": {
            "measured": {
                "type": "string",
                "description": "the corresponding row of this study's table",
            }
        },
        "additionalProperties": {"type": "number"},
    }
    own = Entry(
        "rows",
        "{name: {metric: value, measured: contender}}",
        "",
        "the table, line by line",
        {"type": "object", "additionalProperties": row, "minProperties": 1},
    )
    section = _declared(
        "published",
        "A published table, printed beside the measured one. Numbers are as the report shows them: accuracy, ece, oe and cece in "
        "percent.",
        Published,
        own,
    )
    return dataclasses.replace(section, required=("source", "difference", "rows"))


def resources_section() -> Section:
    """What one job gets."""
    return _declared("resources", "The resources of one job.", Resources)


def shown_default(field: SettingField) -> str:
    """The default of a setting as the study file would have it; empty where there is none."""
    if field.required:
        return ""
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    return "unset" if value is None else value if isinstance(value, str) else json.dumps(value)


def paragraphs(documented: object) -> str:
    """The docstring, its lines joined to paragraphs."""
    text = inspect.getdoc(documented) or ""
    return "\n\n".join(" ".join(block.split()) for block in text.split("\n\n"))


_AUGMENT: Schema = {"$ref": "#/$defs/augmentation"}


def _declared(name: str, about: str, cls: type, *special: Entry) -> Section:
    """The section that dataclass `cls` declares; its fields that are no plain settings are
    described by `special` entries.
    """
    fields = [field for field in setting_fields(cls).values() if field.setting.help]
    return Section(name, about, (*map(Entry.of, fields), *special))


def _references(entries: Mapping[str, Entry]) -> Iterable[Entry]:
    for name, entry in entries.items():
        yield dataclasses.replace(entry, schema={"$ref": f"#/$defs/setting.{name}"})


def _shared(name: str, owners: Mapping[str, SettingField]) -> Entry:
    """The entry of a setting that one or more methods have, which need not agree on its meaning,
    limits or default.
    """
    first, *others = (json_schema(field) for field in owners.values())
    alike = all(other == first for other in others)
    schema = (
        first if alike else {"anyOf": _distinct(json_schema(field) for field in owners.values())}
    )
    help = _by_owner(owners, lambda field: field.setting.help)
    default = _by_owner(owners, shown_default)
    values = {
        json.dumps(field.default): field.default for field in owners.values() if not field.required
    }
    if len(values) == 1:
        (value,) = values.values()
        schema = schema | {"default": list(value) if isinstance(value, tuple) else value}
    methods = f"method {', '.join(owners)}"
    described = f"{help} ({methods}; default {default})" if default else f"{help} ({methods})"
    return Entry(
        name,
        _by_owner(owners, requirement),
        default,
        described,
        schema | {"description": described},
    )


def _by_owner(owners: Mapping[str, SettingField], said: Callable[[SettingField], str]) -> str:
    """What is said of a setting: once where all methods agree, else with the methods that it holds
    for.
    """
    texts: dict[str, list[str]] = {}
    for method, field in owners.items():
        texts.setdefault(said(field), []).append(method)
    if len(texts) == 1:
        return next(iter(texts))
    return "; ".join(f"{text} ({', '.join(methods)})" for text, methods in texts.items())


def _distinct(schemas: Iterable[Schema]) -> list[Schema]:
    return list({json.dumps(schema, sort_keys=True): schema for schema in schemas}.values())


def _named(registry: Mapping[str, type]) -> Schema:
    first = {name: paragraphs(registry[name]).split("\n\n")[0] for name in sorted(registry)}
    return {"anyOf": [{"const": name, "description": text} for name, text in first.items()]}


def _augmentation() -> Schema:
    """An augmentation by its name alone, or with settings."""
    objects = []
    for name in sorted(AUGMENTATIONS):
        entries = tuple(Entry.of(field) for field in setting_fields(AUGMENTATIONS[name]).values())
        schema = Section(
            name, paragraphs(AUGMENTATIONS[name]), entries, required=("name",)
        ).schema()
        schema["properties"] = {"name": {"const": name}} | schema["properties"]
        objects.append(schema)
    return {"anyOf": [*_named(AUGMENTATIONS)["anyOf"], *objects]}


def _space(settings: Mapping[str, Entry]) -> dict[str, Schema]:
    """What each setting can be drawn from."""
    kinds: dict[str, type | None] = {
        name: number_type(setting_fields(Recipe)[name]) for name in COMMON
    }
    for method in METHODS:
        kinds |= {
            name: number_type(field)
            for name, field in setting_fields(METHODS[method]).items()
            if name not in COMMON
        }
    space = {
        name: _dimension({"$ref": f"#/$defs/setting.{name}"}, kinds.get(name), entry.help)
        for name, entry in settings.items()
    }
    for entry in _augmentation_settings():
        fields = [
            setting_fields(augmentation).get(entry.name.removeprefix("augmentation."))
            for augmentation in AUGMENTATIONS.values()
        ]
        number = next(number_type(field) for field in fields if field)
        space[entry.name] = _dimension(entry.schema, number, entry.help)
    return space


def _augmentation_settings() -> Iterable[Entry]:
    """`augmentation.<setting>` for every setting of an augmentation."""
    owners: dict[str, dict[str, SettingField]] = {}
    for augmentation in sorted(AUGMENTATIONS):
        for name, field in setting_fields(AUGMENTATIONS[augmentation]).items():
            owners.setdefault(name, {})[augmentation] = field
    for name, fields in owners.items():
        schemas = _distinct(json_schema(field) for field in fields.values())
        help = _by_owner(fields, lambda field: field.setting.help)
        yield Entry(
            f"augmentation.{name}",
            "",
            "",
            help,
            schemas[0] if len(schemas) == 1 else {"anyOf": schemas},
        )


def _dimension(value: Schema, number: type | None, help: str) -> Schema:
    pair = {"type": "array", "prefixItems": [value, value], "minItems": 2, "maxItems": 2}
    flag = {"const": True, "description": "with int: log-uniform"}
    kinds: dict[str, Schema] = {"choice": {"type": "array", "items": value, "minItems": 1}}
    extra: dict[str, Schema] = {
        "when": {
            "type": "object",
            "description": "drawn only where another choice has these values",
        }
    }
    if number is not None:
        kinds["int"] = pair
        extra |= {"step": {"type": "number"}, "log": flag}
    if number is float:
        kinds |= {"uniform": pair, "log": pair}
        extra["log"] = {"anyOf": [pair, flag]}
    required = [{"required": [kind]} for kind in kinds]
    return {
        "type": "object",
        "description": help,
        "properties": kinds | extra,
        "additionalProperties": False,
        "anyOf": required,
    }
