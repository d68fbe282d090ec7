"""Everything that is wrong with a study file, collected so that one pass reports all of it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from distill_ray.addresses import check_scheme, masked, masked_text
from distill_ray.errors import RequestError

Path = tuple[str | int, ...]
"""Where a value is in the file, `("search", "space", "lr")`; items of a list by their position from
0.
"""

Origins = Mapping[Path, int | str]
"""Where each value was written: a line of the file, or `"--set"`."""

MAX_LINE = 500
MAX_LISTED = 20

RENAMED = {
    "augment": "augmentation",
    "signals": "teacher_logits.mode",
    "signals_precision": "teacher_logits.precision",
    "signals_gb": "teacher_logits.gb",
    "signals_top_k": "teacher_logits.top_k",
    "teacher_logits_precision": "teacher_logits.precision",
    "teacher_logits_gb": "teacher_logits.gb",
    "teacher_logits_top_k": "teacher_logits.top_k",
    "retries": "resources.retries",
    "stored": "cached",
}
"""Fields and values that were called otherwise, with their names of today."""


class Problems:
    """What is wrong so far, and where. `raise_any` ends the reading with all of it."""

    def __init__(self, source: str, origins: Origins) -> None:
        self._source = source
        self._origins = origins
        self._messages: dict[tuple[Path, str], None] = {}
        self._wrong: set[Path] = set()
        self._unreadable: set[Path] = set()

    def __bool__(self) -> bool:
        return bool(self._messages)

    def add(self, path: Path, message: str, *, about: Iterable[Path] = ()) -> None:
        """Note that the value at `path` is wrong.

        A problem between several values names the others in `about`; it is left out when one of
        them is wrong already, because then it may be only a consequence.
        """
        if path in self._unreadable or any(self.concern(other) for other in about):
            return
        self._messages[path, message] = None
        self._wrong.update(path[:length] for length in range(len(path) + 1))

    def refuse(self, path: Path, value: Any, rule: str, *, about: Iterable[Path] = ()) -> None:
        """Note that the value at `path` breaks a rule: `"must be above 0"`."""
        self.add(path, f"found {quoted(value)}, {rule}", about=about)

    def add_unreadable(self, path: Path, message: str) -> None:
        """Note that `path` has no value that could be checked; nothing else is said of it."""
        self.add(path, message)
        self._unreadable.add(path)

    def add_unknown(self, path: Path, known: Iterable[str]) -> None:
        """Note that the section has no field of the name that `path` ends in."""
        # Similar names are looked for as long as they can be among those that are listed.
        many = len(self._messages) > 10 * MAX_LISTED
        self.add(path, "unknown field" if many else unknown_field(str(path[-1]), known))

    def concern(self, path: Path) -> bool:
        """Whether the value at `path`, or something within it, is wrong."""
        return path in self._wrong

    def error(self) -> RequestError:
        """One line per problem, in the order of the file and then of the command line; only the
        number of those after the first 20.
        """
        order = {path: place for place, path in enumerate(self._origins)}
        lines = []
        for path, message in self._messages:
            place, rank = self._source, (0, 0)
            parents = (path[:length] for length in range(len(path), -1, -1))
            written = next((parent for parent in parents if parent in order), None)
            if written is not None:
                origin = self._origins[written]
                if isinstance(origin, str):
                    place, rank = origin, (1, order[written])
                else:
                    place, rank = f"{self._source}:{origin}", (0, origin)
            text = f"{dotted(path)}: {message}" if path else message
            lines.append((rank, f"{place}: {one_line(masked_text(text))}"))
        lines.sort(key=lambda line: line[0])
        texts = [line for _, line in lines[:MAX_LISTED]]
        if len(lines) > MAX_LISTED:
            texts.append(f"{self._source}: and {len(lines) - MAX_LISTED} more problems")
        return RequestError("\n".join(texts))

    def raise_any(self) -> None:
        """Raise `RequestError` when anything is wrong."""
        if self:
            raise self.error()


def dotted(path: Path) -> str:
    """The path as `--set` takes it: `search.space.lr`."""
    return ".".join(map(str, path))


def one_line(text: str) -> str:
    """`text` as it can stand on one line of a terminal, whatever the file had in its names."""
    visible = "".join(
        character if character.isprintable() else repr(character)[1:-1]
        for character in text[:MAX_LINE]
    )
    return visible if len(text) <= MAX_LINE else f"{visible}..."


def quoted(value: Any) -> str:
    """A value of the file as a message quotes it: on one line, shortened, without secrets."""
    if value is None:
        return "nothing"
    text = repr(value) if isinstance(value, str | float) else json.dumps(value, ensure_ascii=False)
    text = masked_text(text)
    return text if len(text) <= 60 else f"{text[:57]}..."


def unknown_field(name: str, known: Iterable[str]) -> str:
    """The message for a field that does not exist: the nearest that does, or all of them when none
    is near.
    """
    names = list(dict.fromkeys(known))
    return "unknown field" + (nearest(name, names) or f" (known: {', '.join(names)})")


def nearest(name: Any, known: Iterable[str]) -> str:
    """`"; did you mean 'crop-flip'?"` for a name that is nearly one of `known`, else nothing."""
    text, names = str(name)[:MAX_LINE], list(known)
    if text.lower() in ("none", "null"):  # meant as such, and like no other name
        return ""
    first, dot, setting = text.partition(".")
    if first in RENAMED and text not in names:
        return f"; it is called {RENAMED[first] + dot + setting!r} now"
    longer = [other for other in names if len(text) > 2 and other.startswith(text)]
    near = difflib.get_close_matches(text, names, n=1) or longer
    return f"; did you mean {near[0]!r}?" if near else ""


def check_address(address: str, what: str, path: Path, problems: Problems) -> None:
    """A study file goes into the report and into MLflow, so that it may hold no credentials."""
    try:
        check_scheme(address, what)
    except RequestError as error:
        problems.add(path, str(error))
        return
    if address != masked(address):
        message = f"{masked(address)!r} must hold no password; put credentials in the environment"
        problems.add(path, message)
