"""Families of variants by name: methods, augmentations, models, metrics, data sources. A member
registers itself under its name.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from distill_ray.errors import RequestError

Member = TypeVar("Member")


class Registry(Mapping[str, Member], Generic[Member]):
    """The members of one family by the name they have in a study file.

    Members of this package register with `register`, classes and functions by decoration; members
    of other packages are found through the entry point group `distill_ray.<family>` when a name is
    not known otherwise.

    Example::

        METHODS: Registry[type[Method]] = Registry("method")

        @METHODS.register("kd")
        class EnsembleKD(Method): ...

        METRICS.register("nll")(Metric(...))
    """

    def __init__(self, family: str) -> None:
        self.family = family
        self._members: dict[str, Member] = {}
        self._entry_points: dict[str, EntryPoint] = {}
        self._searched = False

    def register(self, name: str) -> Callable[[Member], Member]:
        """What adds a member under `name`. Raises `ValueError` when the name is taken."""

        def add(member: Member) -> Member:
            if name in self._members:
                raise ValueError(f"{self.family} {name!r} is registered twice")
            self._members[name] = member
            return member

        return add

    def entry_point(self, name: str) -> EntryPoint | None:
        """The entry point of another package that provides the member `name`; None for a member of
        this package, and for one that does not exist.
        """
        self._search_entry_points()
        return self._entry_points.get(name)

    def _search_entry_points(self) -> None:
        if not self._searched:
            for point in entry_points(group=f"distill_ray.{self.family}"):
                if point.name not in self._members:
                    self._members[point.name] = self._load(point)
                    self._entry_points[point.name] = point
            self._searched = True

    def _load(self, point: EntryPoint) -> Member:
        try:
            member: Member = point.load()
        except (ImportError, AttributeError) as error:
            raise RequestError(
                f"{self.family} {point.name!r} ({point.value}) cannot be loaded ({error}); "
                "mend or remove its package"
            ) from error
        return member

    def __getitem__(self, name: str) -> Member:
        if name not in self._members:
            self._search_entry_points()
        if name not in self._members:
            raise KeyError(unknown_name(self.family, name, self._members))
        return self._members[name]

    def __iter__(self) -> Iterator[str]:
        """Names of this package first; other packages are searched only after these."""
        names = list(self._members)
        yield from names
        self._search_entry_points()
        yield from (name for name in self._members if name not in names)

    def __len__(self) -> int:
        self._search_entry_points()
        return len(self._members)


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """The sentence for an unknown name: the known ones, and the nearest if one is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {name!r}{hint} (known: {', '.join(names)})"
