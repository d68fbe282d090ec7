"""The study file as text: safe YAML to plain values, with the line of every value, and `--set` on
top.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from distill_ray.errors import RequestError
from distill_ray.study.problems import Path, Problems, dotted, one_line, shown

MAX_BYTES = 100_000
MAX_VALUES = 20_000
MAX_DEPTH = 40

_PREFIX = "tag:yaml.org,2002:"
_TEXT_TAGS = {_PREFIX + name for name in ("str", "timestamp", "value")}
_SCALAR_TAGS = _TEXT_TAGS | {_PREFIX + name for name in ("int", "float", "bool", "null")}


class _StudyLoader(yaml.SafeLoader):
    """The safe loader, which also reads `1e-3` as a number, as YAML 1.2 does."""


_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")
_StudyLoader.add_implicit_resolver(_PREFIX + "float", _NUMBER, list("-+.0123456789"))


@dataclass(frozen=True)
class Document:
    """The plain values of a study file, where each was written, and what was wrong with the writing
    itself.
    """

    source: str
    text: str
    values: Any
    origins: dict[Path, int | str]
    problems: Problems


def read_document(path: str | pathlib.Path, overrides: Sequence[str] = ()) -> Document:
    """Read the study file `path` and apply each override, `"search.trials=4"`.

    Raises `RequestError` when the file cannot be read, or is not YAML. Slips that still leave
    something to check (a field given twice, say) go into the document's problems.
    """
    source = str(path)
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RequestError(
            f"{source}: cannot read the study file: {(error.strerror or str(error)).lower()}"
        ) from None
    if len(content) > MAX_BYTES:
        raise RequestError(f"{source}: larger than 100 kB; a study file is a page of text")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        byte = f"0x{content[error.start]:02x}"
        raise RequestError(
            f"{source}:{line}: not UTF-8 text (byte {byte}); is this a study file?"
        ) from None
    return parse_document(text, source, overrides)


def parse_document(text: str, source: str, overrides: Sequence[str] = ()) -> Document:
    """The document that YAML `text` stands for; `source` names it in messages. Raises
    `RequestError` as `read_document` does.
    """
    origins: dict[Path, int | str] = {}
    problems = Problems(source, origins)
    values = _Reader(source, origins, problems).read(text)
    if values is None:
        values = {}
        if not overrides:
            raise RequestError(
                f"{source}: the study file is empty; studies/quickstart.yaml shows what one looks like"
            )
    if not isinstance(values, dict):
        found = shown(values)
        raise RequestError(
            f"{source}:{origins[()]}: a study file is a mapping of sections (name, data, ...), found {found}"
        )
    for override in overrides:
        _apply(override, values, origins, problems)
    return Document(source, text, values, origins, problems)


class _Reader:
    """Turns the nodes of one YAML text into values; text of an option has `source` for its place
    instead of lines.
    """

    def __init__(
        self,
        source: str,
        origins: dict[Path, int | str],
        problems: Problems,
        *,
        option: bool = False,
    ) -> None:
        self._source = source
        self._origins = origins
        self._problems = problems
        self._option = option
        self._budget = MAX_VALUES

    def read(self, text: str, at: Path = ()) -> Any:
        try:
            self._loader = _StudyLoader(text)
            node = self._loader.get_single_node()
            return None if node is None else self._value(node, at, 0)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark else 1
            what = ", ".join(filter(None, (error.context, error.problem)))
            raise RequestError(f"{self._place(line)}: not valid YAML: {what}") from None
        except yaml.reader.ReaderError as error:
            line = text[: error.position].count("\n") + 1
            raise RequestError(
                f"{self._place(line)}: not text: it holds the control character {chr(error.character)!r}"
            ) from None
        except RecursionError:
            raise RequestError(f"{self._place(1)}: nested too deeply to be a study file") from None

    def _place(self, line: int) -> str:
        return self._source if self._option else f"{self._source}:{line}"

    def _note(self, path: Path, line: int) -> None:
        self._origins[path] = "--set" if self._option else line

    def _value(self, node: yaml.Node, path: Path, depth: int) -> Any:
        line = node.start_mark.line + 1
        if path not in self._origins:
            self._note(path, line)
        self._budget -= 1
        if self._budget < 0 or depth > MAX_DEPTH:
            how = "grows too large" if self._budget < 0 else "is nested too deeply"
            where = one_line(dotted(path[:3]))
            raise RequestError(
                f"{self._place(line)}: {where}: {how} for a study file; are all anchors meant?"
            )
        if isinstance(node, yaml.MappingNode) and node.tag == _PREFIX + "map":
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode) and node.tag == _PREFIX + "seq":
            return [
                self._value(item, (*path, index), depth + 1)
                for index, item in enumerate(node.value)
            ]
        if not isinstance(node, yaml.ScalarNode) or node.tag not in _SCALAR_TAGS:
            self._problems.add(
                path, f"tag {node.tag.replace(_PREFIX, '!!')} is not allowed; write a plain value"
            )
            return None
        if node.tag in _TEXT_TAGS:
            return node.value
        try:
            return self._loader.construct_object(node)
        except (ValueError, KeyError):
            self._problems.add(
                path, f"found {shown(node.value)}, must be a number or true, false or null"
            )
            return None

    def _mapping(self, node: yaml.MappingNode, path: Path, depth: int) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for key, value in node.value:
            if key.tag == _PREFIX + "merge":
                sources = self._value(value, path, depth + 1)
                for source in sources if isinstance(sources, list) else [sources]:
                    if isinstance(source, dict):
                        merged = source | merged
                    else:
                        self._problems.add(path, "<< must name a mapping or a list of them")
        own: dict[str, Any] = {}
        for key, value in node.value:
            if key.tag == _PREFIX + "merge":
                continue
            if not isinstance(key, yaml.ScalarNode) or key.tag not in _TEXT_TAGS:
                text = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                self._problems.add(
                    path, f"found {text} as the name of a field, must be text (in quotes, perhaps)"
                )
                continue
            name = str(key.value)
            if name in own:
                line = self._origins[*path, name]
                self._problems.add(
                    (*path, name), f"given twice, on lines {line} and {key.start_mark.line + 1}"
                )
                continue
            self._note((*path, name), key.start_mark.line + 1)
            own[name] = self._value(value, (*path, name), depth + 1)
        return merged | own


def _apply(
    override: str, values: dict[str, Any], origins: dict[Path, int | str], problems: Problems
) -> None:
    field, equals, text = override.partition("=")
    path = _path(field.strip())
    label = f"--set {field.strip()}"
    if not equals or "" in path:
        raise RequestError(
            f"--set {override}: write it as field=value, such as --set search.trials=4"
        )
    target: Any = values
    for depth, key in enumerate(path):
        last = depth == len(path) - 1
        if (
            isinstance(target, list)
            and isinstance(key, str)
            and key.isdecimal()
            and int(key) < len(target)
        ):
            path = (*path[:depth], int(key), *path[depth + 1 :])
        elif not isinstance(target, dict):
            raise RequestError(
                f"{label}: {dotted(path[:depth])} is {shown(target)}, which has no {key!r}; set it as a whole"
            )
        here = path[: depth + 1]
        if not last:
            if isinstance(target, dict) and target.get(str(key)) is None:
                target[str(key)] = {}
                origins[here] = "--set"
            target = target[here[-1]]
            continue
        for old in [old for old in origins if old[: len(here)] == here]:
            del origins[old]
        target[here[-1]] = _Reader(label, origins, problems, option=True).read(text, here)


def _path(field: str) -> Path:
    """The parts of a dotted field; a setting of the augmentation stays one name where the search
    space has it so.
    """
    parts = field.split(".")
    if parts[:3] == ["search", "space", "augmentation"] and parts[3:4] not in (
        [],
        ["choice"],
        ["when"],
    ):
        parts[2:4] = [f"augmentation.{parts[3]}"]
    return tuple(parts)
