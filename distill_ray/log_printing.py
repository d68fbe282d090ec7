"""The package's log as lines for the user.

Modules log what a user should see: `info` for what is going on, `warning` for what went wrong and
is mended. As in any library nothing is shown unless someone asks for it: the command line does, and
so does the progress display of a run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from distill_ray.addresses import masked_text
from distill_ray.escaping import lines_for_terminal


class _PrintingHandler(logging.Handler):
    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._write(printable(record.getMessage()))
        except Exception:
            self.handleError(record)


def printable(text: str) -> str:
    """`text` without secrets of addresses, and without anything that a terminal would obey."""
    return lines_for_terminal(masked_text(text))


@contextmanager
def log_printed(write: Callable[[str], None]) -> Iterator[None]:
    """Until the block ends, `write` gets everything that the package logs, and nothing else does.

    Blocks may be nested: the innermost `write` is used.
    """
    logger = logging.getLogger("distill_ray")
    before = logger.handlers, logger.level, logger.propagate
    logger.handlers, logger.propagate = [_PrintingHandler(write)], False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.handlers, level, logger.propagate = before
        logger.setLevel(level)
