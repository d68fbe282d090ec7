"""The critical-difference diagram: mean ranks on a line, with bars over students that cannot be
told apart (Demsar 2006).
"""

from __future__ import annotations

from collections.abc import Sequence

from distill_ray.metric import title_of
from distill_ray.report.format import counted, cut
from distill_ray.report.plots.drawing import WIDE, Panel, Plot, color, figure
from distill_ray.report.ranks import Ranks

ROW = 24
"""Pixels from one label to the next."""


def ranks_panels(ranked: Sequence[Ranks]) -> list[Panel]:
    """A diagram for each metric."""
    return [
        Panel(
            f"Which students can be told apart in {title_of(ranks.metric)}",
            "Mean ranks over seeds, the best to the left. A bar joins students whose mean ranks "
            "differ by less than the critical difference (CD): nothing tells them apart. Seeds of "
            "one data set say whether another training would give the same order, not whether "
            "other data would.",
            (_diagram(ranks),),
        )
        for ranks in ranked
    ]


def _diagram(ranks: Ranks) -> Plot:
    ranking, names = ranks.ranking, list(ranks.ranking.ranks)
    half = -(-len(names) // 2)
    bars = len(ranking.ties)
    top = 74
    height = top + 12 * bars + ROW * half + 26
    width = WIDE[0]
    left, right = 230, width - 230
    with figure((width, height)) as canvas:
        axes = canvas.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.axis("off")

        def x(value: float) -> float:
            return left + (value - 1) / (len(names) - 1) * (right - left)

        # The scale, and the critical difference above it
        axes.plot([left, right], [top, top], color=color("ink"), lw=1)
        for tick in range(1, len(names) + 1):
            axes.plot([x(tick)] * 2, [top - 5, top], color=color("ink"), lw=1)
            axes.text(x(tick), top - 9, str(tick), ha="center", color=color("muted"), fontsize=11)
        axes.text(8, 20, f"{title_of(ranks.metric)}, mean rank", fontsize=13.5, weight="bold")
        end = min(x(1 + ranking.critical), right)
        axes.plot([x(1), end], [38, 38], color=color("bad"), lw=2.5)
        axes.text(end + 8, 42, f"CD {ranking.critical:.2f}", color=color("bad"), fontsize=11)
        # Bars over those that cannot be told apart
        for place, group in enumerate(ranking.ties):
            bar = top + 10 + 12 * place
            ends = [x(ranking.ranks[name]) for name in (group[0], group[-1])]
            axes.plot([ends[0] - 4, ends[1] + 4], [bar, bar], color=color("muted"), lw=4)
        # Each student on its side, the outermost on top
        below = top + 12 * bars + 12
        for place, name in enumerate(names):
            on_left = place < half
            level = below + ROW * (place if on_left else len(names) - 1 - place) + 8
            edge = left - 14 if on_left else right + 14
            value = ranking.ranks[name]
            shade = color("best") if place == 0 else color("ink")
            axes.plot([x(value), x(value), edge], [top, level, level], color=shade, lw=1)
            text = cut(ranks.labels[name], 24)
            axes.text(
                edge + (-6 if on_left else 6),
                level + 4,
                f"{text}  {value:.2f}" if on_left else f"{value:.2f}  {text}",
                ha="right" if on_left else "left",
                color=shade,
                fontsize=12,
            )
    title = f"Critical differences in {title_of(ranks.metric)}"
    listed = ", ".join(f"{ranks.labels[name]} {ranking.ranks[name]:.2f}" for name in names)
    return Plot(
        f"ranks-{ranks.metric}",
        title,
        f"Mean ranks over {counted(ranking.blocks, 'seed')}: {listed}; critical difference "
        f"{ranking.critical:.2f}.",
        canvas,
    )
