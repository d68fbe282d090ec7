"""Searches that are kept in a database, and one line about an address that does not work."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from optuna.storages import BaseStorage

from distill_ray.addresses import masked, masked_text
from distill_ray.errors import RequestError


def open_database(storage_uri: str) -> BaseStorage:
    """Optuna's storage in the database at `storage_uri`.

    Raises `RequestError` when it cannot be used.
    """
    with explained(storage_uri):
        # SQLAlchemy: seconds that a journal does not need
        from distill_ray.search.database import Database

        return Database(storage_uri)


@contextlib.contextmanager
def explained(storage_uri: str) -> Iterator[None]:
    """A context that raises whatever fails in it as a `RequestError` about `--search-storage`,
    without its password.
    """
    try:
        yield
    except Exception as error:
        cause = next(iter(masked_text(str(error), storage_uri).splitlines()), type(error).__name__)
        if isinstance(error, ImportError):
            cause = (
                f"{error.__cause__ or error}; for PostgreSQL: pip install 'distill-ray[postgresql]'"
            )
        raise RequestError(
            f"--search-storage {masked(storage_uri)}: cannot be used ({cause})"
        ) from None
