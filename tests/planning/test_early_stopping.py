"""What early stopping leaves out, against what replays of real trials took and by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from distill_ray.planning.early_stopping import trained_share
from distill_ray.study import StudyDefinition

LONG = ("student.epochs=27", "search.trials=60", "search.try_first=[]")


@pytest.mark.parametrize(("scheduler", "replayed"), [("asha", 0.448), ("hyperband", 0.597)])
def test_it_is_what_replays_of_real_trials_took(
    tiny_study: Callable[..., StudyDefinition], scheduler: str, replayed: float
) -> None:
    """60 recorded trials of 27 epochs, four at a time: the table of docs/search.md."""
    study = tiny_study(*LONG, f"search.scheduler={scheduler}")
    assert trained_share(study, 60, 4) == pytest.approx(replayed, abs=0.06)


def test_many_trials_come_close_to_halving(tiny_study: Callable[..., StudyDefinition]) -> None:
    """Of those that reach a rung one in three goes on, and a few more while few have reached it."""
    study = tiny_study(
        "student.epochs=18", "search.scheduler={name: asha, grace_epochs: 2, reduction: 3}"
    )
    halving = (2 + (6 - 2) / 3 + (18 - 6) / 9) / 18
    share = trained_share(study, 100, 4)
    assert share is not None and halving < share < 1.3 * halving
    alone = trained_share(study, 1, 4)
    assert alone == 1, "nothing to compare it with"


@pytest.mark.parametrize("scheduler", ["none", "median", "paired"])
def test_nothing_is_said_where_rungs_do_not_tell(
    tiny_study: Callable[..., StudyDefinition], scheduler: str
) -> None:
    assert trained_share(tiny_study(f"search.scheduler={scheduler}"), 20, 2) is None
