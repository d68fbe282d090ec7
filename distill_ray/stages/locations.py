"""Where a study keeps things and where it runs, as the command line has it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distill_ray.addresses import masked
from distill_ray.errors import RequestError
from distill_ray.stages import DEFAULT_STORE
from distill_ray.store import Store
from distill_ray.tracking import default_uri, sqlite_file


@dataclass(frozen=True)
class Locations:
    """The addresses of a study's store, MLflow, search storage and Ray cluster; None stands for
    what comes with the store.
    """

    store: str = DEFAULT_STORE
    tracking: str | None = None
    search_storage: str | None = None
    address: str | None = None

    def tracking_uri(self) -> str:
        """The MLflow to record in: the one given, or a database in a local store. Raises
        `RequestError` when there is none.
        """
        if (uri := self._tracking()) is None:
            raise RequestError(
                f"store {masked(self.store)} is not a local folder; "
                "say where MLflow is with --tracking-uri"
            )
        return uri

    def recorded_uri(self) -> str:
        """Like `tracking_uri`, for read-only commands. Raises `RequestError` also when nothing has
        been recorded there.
        """
        uri = self.tracking_uri()
        database = sqlite_file(uri)
        if database is not None and not database.exists():
            raise RequestError(
                f"nothing is recorded in {database}; run a study first, or name its --store"
            )
        return uri

    def shown_tracking(self) -> str:
        """The same as it may be printed; empty when there is none."""
        return masked(self._tracking() or "")

    def _tracking(self) -> str | None:
        store = Store.at(self.store)
        return (
            default_uri(Path(store.uri))
            if self.tracking is None and store.is_local
            else self.tracking
        )
