"""How the report draws: one palette for light and dark, one style, and figures as SVG that a page
can hold.
"""

from __future__ import annotations

import base64
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from distill_ray.escaping import for_html, without_controls
from distill_ray.report.results import BEST, DEFAULT_KD, ENSEMBLE, SCRATCH, TEACHER, Contender

PALETTE = {
    "ink": ("#1b2530", "#e4eaf0"),
    "muted": ("#5b6876", "#9ba9b8"),
    "grid": ("#dfe5eb", "#303b47"),
    "surface": ("#ffffff", "#161d25"),
    "best": ("#1769c2", "#5cb0ff"),
    "ensemble": ("#7a48a8", "#c59cf4"),
    "teacher": ("#1f8a70", "#52d3ae"),
    "scratch": ("#8a6a2f", "#d6b06a"),
    "default-kd": ("#cf5f13", "#ff9d57"),
    "other-1": ("#b3306d", "#ff85bb"),
    "other-2": ("#66741a", "#bccb55"),
    "other-3": ("#0d7a92", "#59cbe2"),
    "other-4": ("#7a5140", "#d3a893"),
    "other-5": ("#4350b5", "#9aa6ff"),
    "bad": ("#c02f2a", "#ff7f78"),
}
"""Colours by what they stand for, for light and for dark. Figures are drawn in the light ones; a
page puts variables there.
"""

WIDE, NARROW, SMALL = (900, 330), (440, 320), (290, 320)
"""Sizes of figures in pixels of the page: one to a row, two to a row, three to a row."""

LEAST_GAP = 8
"""Pixels between two numbers along an axis."""

_STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": PALETTE["muted"][0],
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": PALETTE["muted"][0],
    "axes.labelsize": 12.5,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": PALETTE["ink"][0],
    "axes.titlelocation": "left",
    "axes.titlesize": 13.5,
    "axes.titleweight": "bold",
    "axes.titlepad": 10,
    "axes.titley": 1.0,  # a place that need not be worked out anew at each drawing
    "axes.unicode_minus": True,
    "figure.dpi": 72,
    "figure.facecolor": PALETTE["surface"][0],
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial"],
    "font.size": 12.5,
    "grid.color": PALETTE["grid"][0],
    "grid.linewidth": 0.8,
    "legend.fontsize": 12,
    "legend.frameon": False,
    "legend.labelcolor": PALETTE["ink"][0],
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "path.simplify": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "distill_ray",
    "text.color": PALETTE["ink"][0],
    "text.parse_math": False,
    "xtick.color": PALETTE["muted"][0],
    "xtick.labelsize": 12,
    "xtick.major.size": 3,
    "ytick.color": PALETTE["muted"][0],
    "ytick.labelsize": 12,
    "ytick.major.size": 0,
}


@dataclass(frozen=True, eq=False)
class Plot:
    """A figure with the file name that it is saved under, its title, and a description for those
    who cannot see it.
    """

    name: str
    title: str
    description: str
    figure: Figure

    def svg(self) -> str:
        """The figure as an SVG document of its own, on white."""
        buffer = io.StringIO()
        with matplotlib.rc_context(_STYLE):
            self.figure.savefig(
                buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
            )
        return without_controls(_described(_leaner(buffer.getvalue()), self))

    def _repr_html_(self) -> str:
        """What a notebook shows: an image no wider than its cell. An SVG by itself would be cut off
        there.
        """
        encoded = base64.b64encode(self.svg().encode()).decode()
        alt = for_html(self.description)
        return (
            f'<img style="max-width: 100%" alt="{alt}" src="data:image/svg+xml;base64,{encoded}">'
        )


@dataclass(frozen=True, eq=False)
class Panel:
    """Plots that belong together under one title, and the caption that says what to see in them."""

    title: str
    caption: str
    plots: tuple[Plot, ...]

    @property
    def layout(self) -> Literal["single", "pair", "row"]:
        """How many plots stand beside each other on a wide page: one, two, or as many as fit."""
        if len(self.plots) == 1:
            return "single"
        return "pair" if size_of(len(self.plots)) == NARROW else "row"


def size_of(plots: int) -> tuple[int, int]:
    """The size of each of a panel's plots, so that they fill its rows."""
    if plots == 1:
        return WIDE
    return NARROW if plots in (2, 4) else SMALL


@contextmanager
def figure(size: tuple[int, int] = WIDE) -> Iterator[Figure]:
    """A new empty figure of `size` pixels in the report's style; what is drawn within the context
    has it too. In the end, labels that do not fit are given room.
    """
    with matplotlib.rc_context(_STYLE):
        canvas = Figure(figsize=(size[0] / 72, size[1] / 72), dpi=72)
        yield canvas
        for axes in canvas.axes:
            _spread_ticks(axes)
            _make_room_left(axes)


def _spread_ticks(axes: Axes) -> None:
    """Have fewer numbers along x where they would touch: how long they are is known only now."""
    locator = axes.xaxis.get_major_locator()
    if not isinstance(locator, MaxNLocator):
        return
    for most in (6, 5, 4, 3, 2):
        boxes = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
        boxes.sort(key=lambda box: box.x0)
        gaps = [right.x0 - left.x1 for left, right in itertools.pairwise(boxes)]
        if not gaps or min(gaps) >= LEAST_GAP:
            return
        locator.set_params(nbins=most)


def _make_room_left(axes: Axes) -> None:
    """Narrow the axes where the labels to their left would be cut off."""
    box = axes.yaxis.get_tightbbox()
    missing = 0 if box is None else 1 - box.x0
    if missing > 0:
        left, bottom, width, height = axes.get_position().bounds
        share = missing / axes.figure.bbox.width
        axes.set_position((left + share, bottom, width - share, height))


def axes_in(
    figure: Figure, left: float = 56, right: float = 12, bottom: float = 46, top: float = 34
) -> Axes:
    """Axes that fill `figure` but for margins in pixels."""
    width, height = figure.get_size_inches() * 72
    return figure.add_axes(
        (
            left / width,
            bottom / height,
            (width - left - right) / width,
            (height - bottom - top) / height,
        )
    )


_BESIDE = tuple(
    ((right * reach, up * reach - up), (across, along))
    for reach in (6, 14)
    for up, along in ((1, "bottom"), (-1, "top"))
    for right, across in ((1, "left"), (-1, "right"))
)
"""Places of a name beside its point: pixels to the right and up, and the corner of it there."""


def name_points(axes: Axes, names: Sequence[tuple[str, tuple[float, float]]]) -> None:
    """Write a name beside each point where it touches no point and no name before it and the figure
    does not cut it off; to the right and above where no place is free. Scales and ranges of the
    axes must be final.
    """
    axes.get_xlim(), axes.get_ylim()  # matplotlib works them out only when they are asked for
    places = [axes.transData.transform(point) for _, point in names]
    taken = [Bbox.from_bounds(x - 3, y - 3, 6, 6) for x, y in places]
    for name, point in names:
        label = axes.annotate(name, point, (0, 0), textcoords="offset points", fontsize=10)
        for offset, (across, along) in (*_BESIDE, _BESIDE[0]):
            label.xyann = offset
            label.set(ha=across, va=along)
            box = label.get_window_extent()
            across_fits = axes.bbox.x0 <= box.x0 and box.x1 <= axes.figure.bbox.x1
            if across_fits and box.y0 >= axes.bbox.y0 and not box.count_overlaps(taken):
                break
        taken.append(box)


def whole_numbers(axes: Axes) -> None:
    """Ticks along x at whole numbers only."""
    axes.xaxis.set_major_locator(
        MaxNLocator(nbins=7, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
    )


def color(name: str) -> str:
    """The colour of `name` in the palette, as figures are drawn."""
    return PALETTE[name][0]


def contender_colors(contenders: tuple[Contender, ...]) -> dict[str, str]:
    """A colour for every contender by name, the same in every figure."""
    spare = [*(name for name in PALETTE if name.startswith("other-")), "muted"]
    named = {ENSEMBLE, TEACHER, SCRATCH, DEFAULT_KD, BEST}
    colors = {}
    for contender in contenders:
        if contender.name in named or contender.name == f"{BEST}-1":
            colors[contender.name] = color(contender.name.removesuffix("-1"))
        else:
            colors[contender.name] = color(spare.pop(0) if len(spare) > 1 else spare[0])
    return colors


def for_page(svg: str, name: str) -> str:
    """A figure's SVG as an element of a page: colours and font follow the page, and ids are its
    own.

    `name` must be unique in the page.
    """
    element = svg[svg.index("<svg") :]
    for key, (light, _) in PALETTE.items():
        element = element.replace(light, f"var(--{key})")
    element = re.sub(r"'DejaVu Sans', ?'?Arial'?, ?sans-serif", "var(--font)", element)
    element = re.sub(
        r'\b(id|aria-labelledby)="([^"]*)"', lambda m: f'{m[1]}="{_prefixed(name, m[2])}"', element
    )
    element = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{name}-", element)
    return re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", element, count=1)


def _prefixed(name: str, ids: str) -> str:
    return " ".join(f"{name}-{identifier}" for identifier in ids.split())


def _described(svg: str, plot: Plot) -> str:
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    title, description = for_html(plot.title), for_html(plot.description)
    words = f'<title id="title">{title}</title><desc id="description">{description}</desc>'
    return re.sub(
        r"<svg ([^>]*)>",
        lambda m: f'<svg role="img" aria-labelledby="title description" {m[1]}>{words}',
        svg,
        count=1,
    )


def _leaner(svg: str) -> str:
    """Without digits that no eye can see: coordinates to a hundredth of a pixel."""

    def short(match: re.Match[str]) -> str:
        return re.sub(r"(\.\d\d)\d+", r"\1", match[0])

    return re.sub(r'\b(?:d|x|y|points|transform)="[^"]*"', short, svg)
