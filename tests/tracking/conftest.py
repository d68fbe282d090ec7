"""What the tests of tracking share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


class Messages(logging.Handler):
    """Keeps the texts of what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@pytest.fixture
def said() -> Iterator[list[str]]:
    """The warnings of the trackers of a test."""
    handler = Messages()
    logger = logging.getLogger("distill_ray.tracking")
    logger.addHandler(handler)
    yield handler.texts
    logger.removeHandler(handler)
