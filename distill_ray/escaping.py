"""Text from files, folders and data sets, made safe for the place where it is shown.

Names of classes, files and studies are written by others. Everything that prints them goes through
one of these functions, according to where it prints.
"""

from __future__ import annotations

import html
import re
import unicodedata

_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Categories of control characters, invisible formatting (which may reverse the order of what
follows), lone surrogates, and line and paragraph separators.
"""

_MARKDOWN = "\\`*_[]<>#|~!&$"
_AUTOLINK = re.compile(r"(?i)\b(https?|ftp|mailto|xmpp|www)(?=[:.])")
_BLOCK_START = re.compile(r"^(\d*)([.)](?=\s|$)|[-+](?=\s)|--|==)")


def for_terminal(text: str) -> str:
    r"""`text` with every character that a terminal might obey written out, such as `\x1b`.

    Line breaks are written out too: a name must not begin a line of its own. Lone surrogates, which
    stand for bytes of a file name that are not UTF-8, could not be encoded.
    """
    return "".join(_visible(character) for character in text)


def lines_for_terminal(text: str) -> str:
    """Like `for_terminal`, for a text of several lines, which stay lines, as tabs stay tabs."""
    return re.sub(r"[^\n\t]+", lambda match: for_terminal(match[0]), text)


def for_html(text: str) -> str:
    """`text` as the content or a quoted attribute of an HTML or SVG element."""
    return html.escape(without_controls(text))


def without_controls(document: str) -> str:
    """`document` with the characters that XML does not allow replaced by U+FFFD.

    The markup itself stays: for a document whose parts are escaped, and which must be well formed
    whatever a name in it holds.
    """
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", document)


def for_markdown(text: str) -> str:
    """`text` as words within a paragraph or a table cell: no markup, link, image or HTML."""
    line = for_terminal(" ".join(text.split()))
    escaped = "".join(
        f"\\{character}" if character in _MARKDOWN else character for character in line
    )
    # GitHub makes links of bare addresses
    escaped = _AUTOLINK.sub(r"\1\\", escaped)
    return _BLOCK_START.sub(r"\1\\\2", escaped)


def code_span(text: str) -> str:
    """`text` as code within a line of Markdown."""
    line = for_terminal(" ".join(text.split())) or " "
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    gap = " " if line.startswith("`") or line.endswith("`") else ""
    # A cell of a table ends at a bar, in code too
    return f"{fence}{gap}{line}{gap}{fence}".replace("|", "\\|")


def code_block(text: str, language: str = "") -> str:
    """`text` as a block of code in Markdown."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{lines_for_terminal(text.rstrip())}\n{fence}"


def _visible(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) not in _UNPRINTABLE:
        return character
    return character.encode("unicode_escape").decode()
