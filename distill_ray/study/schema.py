"""The JSON Schema of study files, for editors, made from the declarations that reading goes by.

`reference` makes the pages for people from the same `Section`s.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from distill_ray.augmentation import AUGMENTATIONS
from distill_ray.job import Recipe
from distill_ray.methods import METHODS
from distill_ray.metric import COSTS, objectives
from distill_ray.settings import Setting, plain_type, requirement, setting_fields
from distill_ray.study.fields import json_schema, to_file
from distill_ray.study.parse_search import COUNT, DURATION
from distill_ray.study.recipes import COMMON
from distill_ray.study.sections import (
    BUILT_IN,
    NAME,
    Confirm,
    DataSection,
    EarlyStopping,
    Form,
    GroupFields,
    MeanOf,
    Published,
    Resources,
    SchedulerName,
    Screen,
    Search,
    Seed,
    StudentFields,
)

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]

_AUGMENTATION: Schema = {"$ref": "#/$defs/augmentation"}
_DURATION: Schema = {"anyOf": [{"type": "string", "pattern": f"^{DURATION}$"}, {"type": "null"}]}
_NAME: Schema = {"type": "string", "pattern": f"^{NAME.pattern}$"}
_NAMES: Schema = {"type": "array", "items": {"type": "string"}, "minItems": 1}


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
    def of(cls, field: Setting, schema: Schema | None = None) -> Entry:
        """The entry of a declared field; `schema` is that of a field with a `Form`."""
        forms = [item for item in field.type.__metadata__ if isinstance(item, Form)]
        if forms and schema is not None:
            return cls(field.name, forms[0].takes, forms[0].default, field.help, schema)
        schema = json_schema(field.type)
        if not field.required:
            schema["default"] = to_file(field.default)
        takes = requirement(field.type)
        if dataclasses.is_dataclass(plain_type(field.type)):
            takes += "; see below"
        return cls(field.name, takes, shown_default(field), field.help, schema)


@dataclass(frozen=True)
class Section:
    """A section of the study file. `required` names the fields that cannot be left out."""

    name: str
    about: str
    entries: tuple[Entry, ...]
    required: tuple[str, ...] = ()

    def schema(self) -> Schema:
        """The section as JSON Schema: no other fields are allowed."""
        schema = _object(
            {entry.name: {"description": entry.help} | entry.schema for entry in self.entries}
        )
        schema["description"] = self.about
        return schema | ({"required": list(self.required)} if self.required else {})


def study_schema() -> Schema:
    """The JSON Schema of study files. It knows every method, augmentation and setting, those of
    installed extensions included.

    What fields ask of each other is left to `distill-ray validate`.
    """
    teachers = {"$ref": "#/$defs/teachers"}
    groups, *others = sections()
    top = {
        "name": _NAME | {"description": "names the study in the store and in MLflow"},
        "teachers": {"anyOf": [teachers, {"type": "array", "items": teachers, "minItems": 1}]},
        "seed": json_schema(Seed) | {"default": 0, "description": "all other seeds derive from it"},
    }
    top |= {section.name: section.schema() for section in others}
    return _object(top) | {
        "$schema": DIALECT,
        "title": "distill-ray study",
        "required": ["name", "teachers", "student"],
        "$defs": {
            "augmentation": _augmentation(),
            "teachers": groups.schema()
            | {"anyOf": [{"required": ["model"]}, {"required": ["from"]}]},
        }
        | {f"setting.{name}": entry.schema for name, entry in recipe_entries().items()},
    }


def sections() -> list[Section]:
    """Every section of the study file, the teachers first."""
    settings = recipe_entries()
    recipe = tuple(_references(settings))
    groups = declared("teachers", GroupFields, name=_NAME)
    student = declared("student", StudentFields, teachers=_NAMES)
    published = declared("published", Published, rows=_published_rows())
    return [
        dataclasses.replace(groups, entries=groups.entries + recipe),
        declared("data", DataSection),
        dataclasses.replace(student, entries=student.entries + recipe, required=("model",)),
        declared("screen", Screen, candidates=_list(_AUGMENTATION)),
        declared(
            "search",
            Search,
            objectives=_objectives(),
            limits=_limits(),
            scheduler={
                "anyOf": [
                    {"enum": [*get_args(SchedulerName), "none"]},
                    declared("", EarlyStopping).schema(),
                ]
            },
            time_limit=_DURATION,
            study_time_limit=_DURATION,
            prior=_trial(settings),
            try_first={"type": "array", "items": _trial(settings)},
            space=_object(_space(settings)) | {"minProperties": 1},
        ),
        declared("confirm", Confirm, baselines=_baselines(recipe)),
        dataclasses.replace(published, required=("source", "difference", "rows")),
        declared("resources", Resources),
    ]


def recipe_entries() -> dict[str, Entry]:
    """The settings of a recipe by name: method and augmentation, the common ones, and those of all
    methods.
    """
    fields = setting_fields(Recipe)
    model = dataclasses.replace(Entry.of(fields["model"]), takes="the name of a model")
    method = Entry(
        "method",
        "the name of a method",
        "kd; supervised for teachers",
        fields["method"].help,
        {"anyOf": _names(METHODS)},
    )
    augmentation = Entry(
        "augmentation",
        "the name of an augmentation, or {name: ..., setting: ...}",
        "crop-flip",
        fields["augmentation"].help,
        _AUGMENTATION,
    )
    entries = {"model": model, "method": method, "augmentation": augmentation}
    entries |= {name: Entry.of(fields[name]) for name in COMMON if name != "model"}
    for name, owners in _by_setting(METHODS).items():
        entries.setdefault(name, _shared(name, owners))
    return entries


def shown_default(field: Setting) -> str:
    """The default of a setting as the study file would have it; empty where there is none."""
    if field.required or dataclasses.is_dataclass(field.default):
        return ""
    value = to_file(field.default)
    if value is None:
        return "unset"
    return value if isinstance(value, str) else json.dumps(value)


def paragraphs(documented: object) -> str:
    """The docstring, its lines joined to paragraphs."""
    text = inspect.getdoc(documented) or ""
    return "\n\n".join(" ".join(block.split()) for block in text.split("\n\n"))


def declared(name: str, cls: type, /, **schemas: Schema) -> Section:
    """The section that dataclass `cls` declares; `schemas` has those of fields with a `Form`."""
    entries = [
        Entry.of(field, schemas.get(field.name))
        for field in setting_fields(cls).values()
        if field.help
    ]
    return Section(name, paragraphs(cls), tuple(entries))


def _references(entries: Mapping[str, Entry]) -> Iterable[Entry]:
    for name, entry in entries.items():
        yield dataclasses.replace(entry, schema={"$ref": f"#/$defs/setting.{name}"})


def _object(properties: Mapping[str, Schema]) -> Schema:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


def _by_setting(registry: Mapping[str, type]) -> dict[str, dict[str, Setting]]:
    """Every setting of the members of a registry: which of them have it, and how."""
    owners: dict[str, dict[str, Setting]] = {}
    for member in sorted(registry):
        for name, field in setting_fields(registry[member]).items():
            owners.setdefault(name, {})[member] = field
    return owners


def _shared(name: str, owners: Mapping[str, Setting]) -> Entry:
    """The entry of a setting that one or more methods have, which need not agree on its meaning,
    limits or default.
    """
    help = _by_owner(owners, lambda field: field.help)
    default = _by_owner(owners, shown_default)
    methods = f"method {', '.join(owners)}"
    described = f"{help} ({methods}; default {default})" if default else f"{help} ({methods})"
    schema = _alternatives(owners) | {"description": described}
    values = {shown_default(field): field.default for field in owners.values()}
    if len(values) == 1 and default:
        schema["default"] = to_file(next(iter(values.values())))
    takes = _by_owner(owners, lambda field: requirement(field.type))
    return Entry(name, takes, default, described, schema)


def _by_owner(owners: Mapping[str, Setting], text_of: Callable[[Setting], str]) -> str:
    """A text about a setting: once where all owners agree, else with the owners it holds for."""
    texts: dict[str, list[str]] = {}
    for owner, field in owners.items():
        texts.setdefault(text_of(field), []).append(owner)
    if len(texts) == 1:
        return next(iter(texts))
    return "; ".join(f"{text} ({', '.join(names)})" for text, names in texts.items())


def _alternatives(owners: Mapping[str, Setting]) -> Schema:
    """What a setting takes with any of its owners."""
    schemas = []
    for field in owners.values():
        schema = json_schema(field.type)
        schema.pop("description", None)
        if schema not in schemas:
            schemas.append(schema)
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _names(registry: Mapping[str, type]) -> list[Schema]:
    first = {name: paragraphs(registry[name]).split("\n\n")[0] for name in sorted(registry)}
    return [{"const": name, "description": text} for name, text in first.items()]


def _augmentation() -> Schema:
    """An augmentation by its name alone, or with settings."""
    alternatives = _names(AUGMENTATIONS)
    for name in sorted(AUGMENTATIONS):
        section = declared(name, AUGMENTATIONS[name])
        named = Entry("name", "", "", f"the augmentation {name}", {"const": name})
        section = dataclasses.replace(
            section, entries=(named, *section.entries), required=("name",)
        )
        alternatives.append(section.schema())
    return {"anyOf": alternatives}


def _objectives() -> Schema:
    directions = {
        name: {"const": better, "description": f"{better} is better"}
        for name, better in objectives().items()
    }
    return _object(directions) | {"minProperties": 1}


def _limits() -> Schema:
    number: Schema = {"type": "number", "exclusiveMinimum": 0}
    count: Schema = {"anyOf": [number, {"type": "string", "pattern": f"^{COUNT}$"}]}
    costs = {}
    for name, cost in COSTS.items():
        unit = f", in {cost.unit}" if cost.unit else ""
        costs[name] = (count if cost.whole else number) | {"description": cost.meaning + unit}
    return _object(costs)


def _baselines(recipe: tuple[Entry, ...]) -> Schema:
    changed = Section("baseline", "what differs from the student", recipe).schema()
    changed["properties"]["teachers"] = _NAMES
    shares = json_schema(setting_fields(MeanOf)["shares"].type)
    mean = _object({"ensemble": _NAMES, "shares": shares}) | {
        "description": "the mean prediction of others, or of one's runs",
        "required": ["ensemble"],
    }
    named = {
        "type": "object",
        "propertyNames": {"pattern": f"^{NAME.pattern}$"},
        "additionalProperties": {"anyOf": [changed, mean, {"type": "null"}]},
    }
    return {"anyOf": [{"type": "array", "items": {"enum": list(BUILT_IN)}}, named]}


def _published_rows() -> Schema:
    measured = {
        "type": "string",
        "description": "the corresponding row of this study's table",
    }
    row = {
        "type": "object",
        "properties": {"measured": measured},
        "additionalProperties": {"type": "number"},
    }
    return {"type": "object", "additionalProperties": row, "minProperties": 1}


def _trial(settings: Mapping[str, Entry]) -> Schema:
    of_augmentations = {
        f"augmentation.{name}": _alternatives(owners)
        for name, owners in _by_setting(AUGMENTATIONS).items()
    }
    of_recipe = {entry.name: entry.schema for entry in _references(settings)}
    return _object(of_recipe | of_augmentations) | {"description": "one trial"}


def _space(settings: Mapping[str, Entry]) -> dict[str, Schema]:
    """What each setting can be drawn from."""
    types = {name: setting_fields(Recipe)[name].type for name in COMMON}
    for name, owners in _by_setting(METHODS).items():
        types.setdefault(name, next(iter(owners.values())).type)
    space = {}
    for name, entry in settings.items():
        reference = {"$ref": f"#/$defs/setting.{name}"}
        space[name] = _dimension(reference, types.get(name), entry.help)
    for name, owners in _by_setting(AUGMENTATIONS).items():
        help = _by_owner(owners, lambda field: field.help)
        type_ = next(iter(owners.values())).type
        space[f"augmentation.{name}"] = _dimension(_alternatives(owners), type_, help)
    return space


def _dimension(value: Schema, declared: Any, help: str) -> Schema:
    pair = {"type": "array", "prefixItems": [value, value], "minItems": 2, "maxItems": 2}
    flag = {"const": True, "description": "with int: log-uniform"}
    number = plain_type(declared)
    kinds: dict[str, Schema] = {"choice": _list(value)}
    when = {"type": "object", "description": "drawn only where another choice has these values"}
    extra: dict[str, Schema] = {"when": when}
    if number in (int, float):
        kinds["int"] = pair
        extra |= {"step": {"type": "number"}, "log": flag}
    if number is float:
        kinds |= {"uniform": pair, "log": pair}
        extra["log"] = {"anyOf": [pair, flag]}
    return _object(kinds | extra) | {
        "description": help,
        "anyOf": [{"required": [kind]} for kind in kinds],
    }
