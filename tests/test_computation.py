"""What computed a result is in its record, and differences within a study are reported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distill_ray.execution.cluster import WorkerResources
from distill_ray.execution.run_job import run_job
from distill_ray.job import Computation, Job, Recipe, differences
from distill_ray.records import find_job
from distill_ray.report.results import StudyResults
from distill_ray.report.to_json import as_json
from distill_ray.resolve import data_of
from distill_ray.store import Store
from distill_ray.study import load_study
from distill_ray.training.device import AUTO_PRECISION, device_name

ONE = Computation(precision="fp32", device="Processor X", threads=1, workers=1, torch="2.15.0")


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({}, []),
        ({"precision": "bf16"}, ["precision: bf16 (1 job), fp32 (2 jobs)"]),
        ({"threads": 2}, ["threads: 1 (2 jobs), 2 (1 job)"]),
        (
            {"device": "GPU Y", "torch": "2.16.0"},
            [
                "device: GPU Y (1 job), Processor X (2 jobs)",
                "torch: 2.15.0 (2 jobs), 2.16.0 (1 job)",
            ],
        ),
    ],
)
def test_differences_are_named_with_the_number_of_jobs(
    other: dict[str, object], expected: list[str]
) -> None:
    computations = {ONE: 2}
    changed = replace(ONE, **other)  # type: ignore[arg-type]
    computations[changed] = computations.get(changed, 0) + 1
    assert differences(computations) == expected
    results = StudyResults(
        name="x",
        digest="0",
        study_file="",
        created="",
        status="finished",
        objectives={"val/nll": "min"},
        computations=computations,
    )
    assert results.computed_differently == expected
    computed = as_json(results)["study"]["computed"]
    assert sum(entry["jobs"] for entry in computed) == 3
    assert computed[0]["precision"] == "fp32"


@pytest.mark.parametrize(("precision", "threads"), [("fp32", 1), ("bf16", 1), ("fp32", 2)])
def test_a_record_says_what_computed_it(
    precision: str, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`precision: auto` and the number of threads are no part of a job, and decide its bits."""
    monkeypatch.setenv(AUTO_PRECISION, precision)
    before = torch.get_num_threads()
    study = load_study(Path(__file__).with_name("tiny.yaml"))
    store = Store.open(str(tmp_path / "store"))
    recipe = Recipe(model="mlp-4", epochs=1, batch_size=100)
    job = Job(recipe=recipe, data=data_of(study), seed=0)
    try:
        for _ in run_job(store, job, WorkerResources(cpus=threads)):
            pass
    finally:
        torch.set_num_threads(before)
    record = find_job(store, job.id)
    assert record is not None
    assert record.computation == Computation(
        precision=precision,
        device=device_name(torch.device("cpu")),
        threads=threads,
        workers=1,
        torch=torch.__version__,
    )
