"""The picture of the screening: T. stddev of augmentations against the loss of the students that
had them.
"""

from __future__ import annotations

from collections.abc import Sequence

from distill_ray.report.format import cut
from distill_ray.report.plots.drawing import Panel, Plot, axes_in, color, figure, size_of
from distill_ray.report.screening import TITLES, Relation, relation_sentence


def screen_panel(relations: Sequence[Relation]) -> Panel | None:
    """Trials with their means by augmentation, and confirmed students; None without either."""
    by_kind = {relation.of: relation for relation in relations}
    drawn = [relation for relation in relations if relation.of != "augmentations"]
    if not drawn:
        return None
    size = size_of(len(drawn))
    return Panel(
        "Did the teachers tell which augmentation helps?",
        "One point per trial (small) with the mean by augmentation (large), or per confirmed "
        "student. A good proxy rises from left to right: a lower T. stddev goes with a lower "
        "loss. " + " ".join(relation_sentence(relation) for relation in relations),
        tuple(
            _scatter(
                relation, by_kind.get("augmentations") if relation.of == "trials" else None, size
            )
            for relation in drawn
        ),
    )


def _scatter(relation: Relation, means: Relation | None, size: tuple[int, int]) -> Plot:
    named = relation if means is None else means
    with figure(size) as canvas:
        axes = axes_in(canvas, left=70)
        if means is not None:
            x, y = (
                [getattr(point, of) for point in relation.points] for of in ("t_stddev", "loss")
            )
            axes.plot(x, y, "o", ms=5, mew=0, color=color("muted"), alpha=0.6)
        x, y = ([getattr(point, of) for point in named.points] for of in ("t_stddev", "loss"))
        axes.plot(x, y, "o", ms=9, mew=0, color=color("best"))
        middle = (min(x) + max(x)) / 2
        for point in named.points:
            away, side = ((7, 4), "left") if point.t_stddev <= middle else ((-7, 4), "right")
            where = (point.t_stddev, point.loss)
            axes.annotate(
                cut(point.label, 28),
                where,
                away,
                textcoords="offset points",
                fontsize=10.5,
                ha=side,
            )
        axes.set(xlabel="T. stddev", ylabel=TITLES[relation.of].partition(" of ")[0])
        axes.ticklabel_format(axis="x", style="plain", useOffset=False)
        axes.locator_params(axis="x", nbins=5)
        axes.margins(0.15)
    title = f"T. stddev against the {TITLES[relation.of]}"
    return Plot(f"screen-{relation.of}", title, relation_sentence(relation), canvas)
