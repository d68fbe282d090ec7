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

from distill_ray.addresses import masked_text
from distill_ray.errors import RequestError
from distill_ray.study.problems import Path, Problems, dotted, one_line, quoted

MAX_BYTES = 100_000
MAX_VALUES = 20_000
MAX_DEPTH = 40
MAX_BRACKETS = 200
MAX_NUMBER = 2**63

_PREFIX = "tag:yaml.org,2002:"
_INT, _FLOAT = f"{_PREFIX}int", f"{_PREFIX}float"
_TEXT_TAGS = {_PREFIX + name for name in ("str", "timestamp", "value")}
_SCALAR_TAGS = _TEXT_TAGS | {_INT, _FLOAT} | {_PREFIX + name for name in ("bool", "null")}

_NUMBERS = {
    _INT: re.compile(r"([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"),
    _FLOAT: re.compile(
        r"([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
}
"""Numbers as YAML 1.2 has them: `010` is 10, `1e-3` a number, and `1:30` and `1_000` are texts."""

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


class _StudyLoader(yaml.SafeLoader):
    """The safe loader with the numbers of YAML 1.2, in place of those of YAML 1.1."""


_StudyLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBERS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in _NUMBERS.items():
    _StudyLoader.add_implicit_resolver(_tag, _pattern, list("-+.0123456789"))


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
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise RequestError(
            f"{_option(source)}: cannot read the study file: {reason.lower()}"
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
                f"{source}: the study file is empty; studies/quickstart.yaml shows what one looks "
                "like"
            )
    if not isinstance(values, dict):
        value = quoted(values)
        raise RequestError(
            f"{source}:{origins[()]}: a study file is a mapping of sections (name, data, ...), "
            f"found {value}"
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
        self._check_nesting(text)
        loader = None
        try:
            loader = _StudyLoader(text)
            node = loader.get_single_node()
            return None if node is None else self._value(node, at, 0)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark else 1
            problem = ", ".join(filter(None, (error.context, error.problem)))
            raise RequestError(
                f"{self._place(line)}: not valid YAML: {one_line(problem)}"
            ) from None
        except yaml.reader.ReaderError as error:
            line = text[: error.position].count("\n") + 1
            raise RequestError(
                f"{self._place(line)}: not text: it holds the control character "
                f"{chr(error.character)!r}"
            ) from None
        except (ValueError, OverflowError):  # "\UFFFFFFFF"
            line = loader.line + 1 if loader else 1
            raise RequestError(
                f"{self._place(line)}: not valid YAML: there is no character with that number"
            ) from None
        except RecursionError:
            raise RequestError(f"{self._place(1)}: nested too deeply to be a study file") from None

    def _check_nesting(self, text: str) -> None:
        """Refuse brackets in brackets before PyYAML, whose time grows with the square of their
        depth, sees them.
        """
        if len(text) > MAX_BYTES:
            raise RequestError(f"{self._place(1)}: larger than 100 kB")
        depth = 0
        for bracket in re.finditer(r"[\[{\]}]", text):
            depth = depth + 1 if bracket[0] in "[{" else max(0, depth - 1)
            if depth > MAX_BRACKETS:
                line = text[: bracket.start()].count("\n") + 1
                raise RequestError(f"{self._place(line)}: nested too deeply to be a study file")

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
            tag = node.tag.replace(_PREFIX, "!!")
            message = f"tag {tag} is not allowed; write a plain value"
            self._problems.add_unreadable(path, message)
            return None
        try:
            return self._scalar(node, path)
        except (ValueError, KeyError):
            message = f"found {quoted(node.value)}, must be a number or true, false or null"
            self._problems.add_unreadable(path, message)
            return None

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        """The value of a scalar. Raises `ValueError` or `KeyError` where it is none of its tag."""
        text = node.value
        if node.tag in _TEXT_TAGS:
            if _UNPRINTABLE.search(text):
                self._problems.add_unreadable(
                    path, f"found {quoted(text)}, which holds a control character"
                )
                return None
            return text
        if node.tag == f"{_PREFIX}bool":
            return _StudyLoader.bool_values[text.lower()]
        if node.tag == f"{_PREFIX}null":
            return None
        if not _NUMBERS[node.tag].match(text):
            raise ValueError("not a number")
        if node.tag == _FLOAT:
            return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        number = int(text, base) if len(text) <= 100 else MAX_NUMBER
        if abs(number) >= MAX_NUMBER:
            self._problems.add_unreadable(
                path, f"found {quoted(text)}, which is too large a number"
            )
            return None
        return number

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
        fields: dict[str, Any] = {}
        for key, value in node.value:
            if key.tag == _PREFIX + "merge":
                continue
            if not isinstance(key, yaml.ScalarNode) or key.tag not in _TEXT_TAGS:
                text = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                rule = "must be text (in quotes, perhaps)"
                self._problems.add(path, f"found {text} as the name of a field, {rule}")
                continue
            if _UNPRINTABLE.search(key.value):
                message = f"found {quoted(key.value)} as the name of a field: a control character"
                self._problems.add(path, message)
                continue
            name = str(key.value)
            if name in fields:
                line = self._origins[*path, name]
                self._problems.add(
                    (*path, name), f"given twice, on lines {line} and {key.start_mark.line + 1}"
                )
                continue
            self._note((*path, name), key.start_mark.line + 1)
            fields[name] = self._value(value, (*path, name), depth + 1)
        return merged | fields


def _apply(
    override: str, values: dict[str, Any], origins: dict[Path, int | str], problems: Problems
) -> None:
    field, equals, text = override.partition("=")
    path = _path(field.strip())
    label = f"--set {_option(field.strip())}"
    if not equals or "" in path or re.search(r"\?|//|:/", field):  # an address, perhaps
        raise RequestError(
            f"--set {_option(override)}: write it as field=value, such as --set search.trials=4"
        )
    if len(path) > MAX_DEPTH:
        raise RequestError(f"{label}: has {len(path)} parts; a study file is not that deep")
    target: Any = values
    for depth, key in enumerate(path):
        last = depth == len(path) - 1
        if (
            isinstance(target, list)
            and isinstance(key, str)
            and key.isdecimal()
            and len(key) < 10
            and int(key) < len(target)
        ):
            path = (*path[:depth], int(key), *path[depth + 1 :])
        elif not isinstance(target, dict):
            raise RequestError(
                f"{label}: {_option(dotted(path[:depth]))} is {quoted(target)}, "
                f"which has no {quoted(key)}; set it as a whole"
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


def _option(text: str) -> str:
    """What an option said, on one line and without secrets."""
    return one_line(masked_text(text))


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
