"""The bench runs a whole round of everything, and what it derives follows from what it timed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from distill_ray.cli import main
from distill_ray.planning import bench as module
from distill_ray.planning.bench import LIVE, STUDENT, TEACHER_LOGITS, bench_study
from distill_ray.study import StudyDefinition
from support.bench import BENCH, REFERENCE


def test_what_follows_from_the_times() -> None:
    assert BENCH.images_per_second[STUDENT] == pytest.approx(640)
    shares = {"of the student": 0.05, "identity": 0.0, "mixup": 0.05, "augmix": 0.5}
    assert BENCH.augmentation_shares == {
        name: pytest.approx(share) for name, share in shares.items()
    }


def test_ratios_are_those_within_a_round() -> None:
    """The machine is half as fast in the second round, and the first one is for warming up."""
    times = {
        STUDENT: [9.0, 1, 2, 1],
        TEACHER_LOGITS: [1.0, 1.1, 2.2, 1.1],
        LIVE: [9.0, 4, 8, 4],
        REFERENCE: [9.0, 12, 24, 12],
    }
    assert module._ratios(times) == {
        "images/s with teacher logits over plain reference": pytest.approx(12 / 1.1),
        "images/s with live teachers over plain reference": pytest.approx(3.0),
        "step with teacher logits over student alone": pytest.approx(1.1),
    }


def test_a_bench_of_everything(
    tiny_study: Callable[..., StudyDefinition],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "ROUNDS", 1)
    monkeypatch.setattr(module, "BATCHES", 1)
    assert main(["bench", str(Path(__file__).parents[1] / "tiny.yaml"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["steps"]) == [STUDENT, TEACHER_LOGITS, LIVE]
    assert all(
        seconds > 0
        for seconds in (
            *found["steps"].values(),
            *found["augmentations"].values(),
            found["teachers"],
        )
    )
    assert {"of the student", "identity", "crop-flip", "augmix"} <= set(found["augmentations"])
    assert "additional" not in found["augmentations"], "it makes twice the images"
    assert found["teacher_logits"] > 96 * 2 * 10 * 2
    assert found["per_trial"] > 0
    without = bench_study(
        tiny_study(
            "student.method=latent-be",
            "student.perturb=tdiv-sdiv",
            "search.space={lr: {log: [0.1, 1]}}",
            "search.try_first=[]",
        ),
        {REFERENCE: lambda *arguments: itertools.repeat(1.0)},
    )
    assert list(without.steps) == [STUDENT, LIVE, REFERENCE]
    assert list(without.ratios) == [f"images/s {LIVE} over {REFERENCE}"]
