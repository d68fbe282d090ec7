"""Everything that is wrong with a study file, collected so that one pass reports all of it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from distill_ray.errors import RequestError

Path = tuple[str | int, ...]
"""Where a value is in the file, `("search", "space", "lr")`; items of a list by their position from
0.
"""

Origins = Mapping[Path, int | str]
"""Where each value was written: a line of the file, or `"--set"`."""


MAX_LINE = 500


class Problems:
    """What is wrong so far, and where. `raise_any` ends the reading with all of it."""

    def __init__(self, source: str, origins: Origins) -> None:
        self._source = source
        self._origins = origins
        self._found: dict[tuple[Path, str], None] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, path: Path, message: str, *, about: Iterable[Path] = ()) -> None:
        """Note that the value at `path` is wrong.

        A problem between several values names the others in `about`; it is left out when one of
        them is wrong already, because then it may be only a consequence.
        """
        if not any(self.concern(other) for other in about):
            self._found[path, message] = None

    def concern(self, path: Path) -> bool:
        """Whether the value at `path`, or something within it, is wrong."""
        return any(found[: len(path)] == path for found, _ in self._found)

    def error(self) -> RequestError:
        """One line per problem, in the order of the file and then of the command line."""
        written = list(self._origins)
        lines = []
        for path, message in self._found:
            nearest_written = next(
                (
                    path[:length]
                    for length in range(len(path), -1, -1)
                    if path[:length] in self._origins
                ),
                None,
            )
            if nearest_written is None:
                place, rank = self._source, (0, 0)
            elif isinstance(origin := self._origins[nearest_written], str):
                place, rank = origin, (1, written.index(nearest_written))
            else:
                place, rank = f"{self._source}:{origin}", (0, origin)
            lines.append(
                (rank, f"{place}: " + one_line(f"{dotted(path)}: {message}" if path else message))
            )
        return RequestError("\n".join(line for _, line in sorted(lines, key=lambda line: line[0])))

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
        character if character.isprintable() else repr(character)[1:-1] for character in text
    )
    return visible if len(visible) <= MAX_LINE else f"{visible[:MAX_LINE]}..."


def shown(value: Any) -> str:
    """A value of the file as a message quotes it: on one line, shortened."""
    if value is None:
        return "nothing"
    text = repr(value) if isinstance(value, str | float) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def unknown_field(name: str, known: Iterable[str]) -> str:
    """The message for a field that does not exist: the nearest that does, or all of them when none
    is near.
    """
    names = list(known)
    return "unknown field" + (nearest(name, names) or f" (known: {', '.join(names)})")


def nearest(name: Any, known: Iterable[str]) -> str:
    """`"; did you mean 'crop-flip'?"` for a name that is nearly one of `known`, else nothing."""
    names = list(known)
    longer = [other for other in names if len(str(name)) > 2 and other.startswith(str(name))]
    near = difflib.get_close_matches(str(name), names, n=1) or longer
    return f"; did you mean {near[0]!r}?" if near else ""
