"""The picture of influence: how much each searched setting explains of the differences between
trials.
"""

from __future__ import annotations

from distill_ray.report.format import cut, listed, objective_title
from distill_ray.report.plots.drawing import WIDE, Panel, Plot, axes_in, color, figure
from distill_ray.report.results import StudyResults
from distill_ray.report.search import influence


def influence_panel(results: StudyResults) -> Panel | None:
    """Bars of every setting's influence, with the mark that chance alone reaches; None with too few
    complete trials.
    """
    shares = sorted(influence(results), key=lambda share: share.explained)
    if not shares:
        return None
    objective = objective_title(next(iter(results.objectives)))
    with figure((WIDE[0], 70 + 34 * len(shares))) as canvas:
        axes = axes_in(
            canvas,
            left=24 + 8 * max(len(cut(share.name, 24)) for share in shares),
            right=40,
            top=10,
        )
        for place, share in enumerate(shares):
            shade, alpha = ("best", 0.9) if share.explained > share.by_chance else ("muted", 0.6)
            axes.barh(place, 100 * share.explained, height=0.55, color=color(shade), alpha=alpha)
            axes.plot(
                [100 * share.by_chance] * 2, [place - 0.4, place + 0.4], color=color("ink"), lw=2
            )
        axes.set_yticks(range(len(shares)), [cut(share.name, 24) for share in shares])
        axes.set(xlim=(0, 100), xlabel=f"% of the variation of {objective}, in ranks")
        axes.grid(False, axis="y")
    clear = [share.name for share in reversed(shares) if share.explained > share.by_chance]
    verdict = (
        f"Past the mark: {listed(clear)}."
        if clear
        else "None is past its mark: there are too few trials to tell."
    )
    words = "; ".join(f"{share.name} {100 * share.explained:.0f} %" for share in reversed(shares))
    return Panel(
        "How much each setting matters",
        "What part of the differences between complete trials each setting explains on its own "
        "(by a curve of second degree, or by the means of categories). The mark is what a setting "
        "without any effect reaches in 5 % of cases: only bars past it mean something, and "
        f"settings that work only together are not seen. {verdict}",
        (Plot("influence", "Influence of each searched setting", words, canvas),),
    )
