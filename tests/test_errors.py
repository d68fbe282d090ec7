"""What an error says, in one line."""

from __future__ import annotations

import pytest

from distill_ray.errors import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n\n  second  \nthird"), "second"),
        (KeyError(), "KeyError"),
        (ValueError(""), "ValueError"),
        (ValueError("x" * 400), "x" * 300 + "..."),
    ],
)
def test_the_first_line_that_says_something(error: Exception, line: str) -> None:
    assert first_line(error) == line
