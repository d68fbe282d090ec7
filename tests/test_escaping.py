"""Text written by others, where it is shown: nothing in it is obeyed, and all of it can be read."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_ray.escaping import (
    code_block,
    code_span,
    for_html,
    for_markdown,
    for_terminal,
    lines_for_terminal,
    without_controls,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("title\x1b]0;gone\x07", r"title\x1b]0;gone\x07"),
        ("\x9b2Jcleared", r"\x9b2Jcleared"),
        ("over\rwritten\b", r"over\rwritten\x08"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("caf\udce9", r"caf\udce9"),
        ("café 日本 🐈", "café 日本 🐈"),
    ],
)
def test_a_terminal_obeys_nothing(text: str, expected: str) -> None:
    assert for_terminal(text) == expected


@given(st.text())
def test_whatever_is_printed_is_printable(text: str) -> None:
    shown = for_terminal(text)
    assert not re.search("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", shown)
    shown.encode()
    assert for_terminal(shown) == shown


def test_lines_of_a_message_stay_lines() -> None:
    assert lines_for_terminal("a\x1bb\nc") == "a\\x1bb\nc"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<script>x</script>", r"\<script\>x\</script\>"),
        ("![a](http://h/x.png)", r"\!\[a\](http\://h/x.png)"),
        ("[a][b] `c` *d* _e_ ~~f~~", r"\[a\]\[b\] \`c\` \*d\* \_e\_ \~\~f\~\~"),
        ("a | b", r"a \| b"),
        ("# head", r"\# head"),
        ("- item", r"\- item"),
        ("1. item", r"1\. item"),
        ("two\n\nparagraphs", "two paragraphs"),
        ("www.example.org &lt; $x$", r"www\.example.org \&lt; \$x\$"),
        ("crop-flip 0.5", "crop-flip 0.5"),
    ],
)
def test_markdown_takes_it_for_words(text: str, expected: str) -> None:
    assert for_markdown(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", "`a`"),
        ("a`b", "``a`b``"),
        ("`", "`` ` ``"),
        ("a|b", r"`a\|b`"),
        ("a\nb\x1b", r"`a b\x1b`"),
    ],
)
def test_code_within_a_line_ends_where_it_should(text: str, expected: str) -> None:
    assert code_span(text) == expected


def test_a_block_of_code_is_not_left_early() -> None:
    assert code_block("a\n```\n<b>", "yaml") == "````yaml\na\n```\n<b>\n````"


@given(st.text())
def test_html_and_svg_hold_it_as_text(text: str) -> None:
    element = ElementTree.fromstring(f'<a b="{for_html(text)}">{for_html(text)}</a>')
    content = re.sub(r"\r\n?", "\n", without_controls(text))
    assert (element.text or "") == content
    assert element.attrib["b"] == re.sub("[\n\t]", " ", content)

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            raise AssertionError(tag)

    Tags().feed(for_html(text))
