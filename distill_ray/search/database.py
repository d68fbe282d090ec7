"""Optuna's storage in a database that may be down for a while: calls wait until it is back."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, InterfaceError, OperationalError, PendingRollbackError

from distill_ray.addresses import masked
from distill_ray.errors import RunError
from distill_ray.search._optuna_internals import CachedStorage

logger = logging.getLogger(__name__)

PATIENCE_S = 600.0
"""Seconds that a database may be down before the search ends with an error."""

PAUSE_S = 1.0
"""Seconds between two attempts to reach a database that does not respond."""

_LOST = (OperationalError, InterfaceError, PendingRollbackError)
"""What SQLAlchemy raises when a connection is refused, ends, or ended earlier in the transaction.
"""

_Method = TypeVar("_Method", bound=Callable[..., Any])


class Database(CachedStorage):
    """Optuna's `RDBStorage` at `url`, for drivers that outlive a restart of the database.

    Connections are tested before they are used. A call that the database does not answer is retried
    until it is back, for at most `PATIENCE_S` seconds; the first failure and the recovery are
    logged. The database may have done what it could not confirm: asked again, it then says that
    the row exists or the trial has ended, which counts as done.

    Opening raises whatever SQLAlchemy raises when nothing answers; later calls raise `RunError`
    after `PATIENCE_S` seconds.
    """

    def __init__(self, url: str) -> None:
        server = make_url(url).get_backend_name() in ("postgresql", "mysql", "mariadb")
        options = {"pool_pre_ping": True, "connect_args": {"connect_timeout": 10} if server else {}}
        super().__init__(RDBStorage(url, engine_kwargs=options))
        self._name = masked(url)
        self._away_since: float | None = None

    def wait(self, error: Exception) -> None:
        """Wait a moment after `error`. Raises `RunError` after `PATIENCE_S` seconds."""
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
            logger.warning(
                "--search-storage %s does not answer; waiting for it, at most %.0f minutes",
                self._name,
                PATIENCE_S / 60,
            )
        if now - self._away_since > PATIENCE_S:
            raise RunError(
                f"--search-storage {self._name} has not answered for {PATIENCE_S / 60:.0f} "
                "minutes; run the same command again when it does"
            ) from error
        time.sleep(PAUSE_S)

    def answered(self) -> None:
        """Note that the database works."""
        if self._away_since is not None:
            self._away_since = None
            logger.warning("--search-storage %s answers again", self._name)


def _patient(method: _Method) -> _Method:
    @functools.wraps(method)
    def call(self: Database, *arguments: Any, **named: Any) -> Any:
        repeated = False
        while True:
            try:
                result = method(self, *arguments, **named)
            except (StorageInternalError, *_LOST) as error:
                if not isinstance(error, _LOST) and not isinstance(error.__cause__, _LOST):
                    raise
                self.wait(error)
                repeated = True
            except (IntegrityError, UpdateFinishedTrialError):
                if not repeated:
                    raise
                return True
            else:
                self.answered()
                return result

    return cast("_Method", call)


for _name in BaseStorage.__abstractmethods__ | {"get_trial_id_from_study_id_trial_number"}:
    setattr(Database, _name, _patient(getattr(CachedStorage, _name)))
