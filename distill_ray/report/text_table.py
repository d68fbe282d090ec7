"""A table as plain text: the one way in which commands print columns."""

from __future__ import annotations

from collections.abc import Sequence

from distill_ray.escaping import for_terminal

PLUS_MINUS = "±"
"""In a cell, stands between a mean and its spread, which are aligned by it."""

_FEWEST = 14
"""Characters that labels keep, however narrow the table is to be."""


def text_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    rule: bool = True,
    width: int | None = None,
) -> list[str]:
    """The lines of a table: header, a rule and the rows, with texts to the left and numbers to the
    right.

    A column is of numbers when all its cells are (`12`, `4.1 %`, `0.31±0.02`, `-`); means stand
    under means and spreads under spreads. Cells are escaped for the terminal.

    Args:
        header: a title for each column; may be empty.
        rows: as many cells for each column.
        rule: whether a line of dashes separates the header.
        width: columns of the terminal; longer first cells are cut for that.
    """
    columns = []
    for title, *cells in zip(header, *rows, strict=True):
        escaped = [for_terminal(cell) for cell in cells]
        columns.append(_aligned(for_terminal(title), escaped))
    labels, *others = columns
    taken = sum(len(column[0]) for column in others)
    gap = "  "
    if width is not None:
        if len(labels[0]) + taken + 2 * len(others) > width:
            gap = " "
        labels = _cut(labels, max(width - taken - len(gap) * len(others), _FEWEST))
    lines = [gap.join(line).rstrip() for line in zip(labels, *others, strict=True)]
    if rule:
        lines.insert(1, gap.join("-" * len(column[0]) for column in (labels, *others)))
    return lines


def _aligned(title: str, cells: list[str]) -> list[str]:
    """The title and the cells of a column in one width."""
    if not any(map(_is_number, cells)) or not all(_is_number(cell) for cell in cells if cell):
        width = max(map(len, (title, *cells)))
        return [text.ljust(width) for text in (title, *cells)]
    parts = [cell.partition(PLUS_MINUS) for cell in cells]
    before = max((len(mean) for mean, _, _ in parts), default=0)
    after = max((len(sign + spread) for _, sign, spread in parts), default=0)
    texts = [mean.rjust(before) + (sign + spread).ljust(after) for mean, sign, spread in parts]
    width = max(before + after, len(title))
    return [text.rjust(width) for text in (title, *texts)]


def _is_number(cell: str) -> bool:
    return cell[:1].isdigit() or cell[:1] == "-" or cell[:4] in ("nan", "inf")


def _cut(labels: list[str], width: int) -> list[str]:
    """Labels of one width, shortened to `width`; what only loses spaces needs no dots."""
    if len(labels[0]) <= width:
        return labels
    cut = []
    for label in labels:
        whole = not label[width:].strip()
        cut.append(label[:width] if whole else f"{label[: width - 3]}...")
    return cut
