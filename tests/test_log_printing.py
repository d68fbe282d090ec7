"""What the package logs, as lines for the user."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from distill_ray.log_printing import log_printed, printable
from distill_ray.progress import Progress

logger = logging.getLogger("distill_ray.somewhere")


def test_lines_are_printed_without_secrets_and_escapes(logged: list[str]) -> None:
    logger.info("waiting for %s", "postgresql://me:hidden@host/db")
    logger.warning("class %s", "\x1b[31mred\x1b[0m")
    logger.debug("for developers")
    assert logged == ["waiting for postgresql://host/db", r"class \x1b[31mred\x1b[0m"]


def test_a_message_of_several_lines_stays_that() -> None:
    assert printable("one\ntwo\rthree") == "one\ntwo\\rthree"


def test_the_innermost_display_gets_it_and_nothing_is_left_behind(
    caplog: pytest.LogCaptureFixture, logged: list[str]
) -> None:
    file = io.StringIO()
    with Progress(Console(file=file, width=20), {"val/nll": "min"}):
        logger.info("a line that is longer than the display is wide %s", "[bold]x[/bold]")
    logger.info("after it")
    assert file.getvalue() == ("a line that is longer than the display is wide [bold]x[/bold]\n")
    assert logged == ["after it"]


def test_a_library_stays_silent(capfd: pytest.CaptureFixture[str]) -> None:
    with log_printed(print):
        pass
    logging.getLogger("distill_ray").info("unheard")
    assert capfd.readouterr() == ("", "")


def test_a_line_that_cannot_be_printed_ends_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    def broken(line: str) -> None:
        raise OSError("no terminal any more")

    with log_printed(broken):
        logger.info("lost")
