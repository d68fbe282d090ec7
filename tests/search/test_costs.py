"""Costs that are known before training, and limits on them: what Optuna, the observer and the store
get to know.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState

from distill_ray.cli import main
from distill_ray.cost import timing
from distill_ray.cost.counts import counted_costs, deployed_network
from distill_ray.errors import RequestError
from distill_ray.events import JobState, Metrics, Observer, StudyJob
from distill_ray.execution.messages import Finished
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.sharing import trial_sharing
from distill_ray.export import load
from distill_ray.export.load import graph_session
from distill_ray.job import Recipe
from distill_ray.methods import METHODS
from distill_ray.metric import COSTS
from distill_ray.resolve import data_of
from distill_ray.search.costs import CostMeter
from distill_ray.search.deadline import Deadline
from distill_ray.search.history import (
    INFEASIBLE_PER_TRIAL,
    begun,
    counted,
    is_over,
    job_state,
    open_history,
)
from distill_ray.search.samplers import make_sampler
from distill_ray.search.search import _Trials
from distill_ray.search.searcher import OptunaSearcher
from distill_ray.store import Store
from distill_ray.study import StudyDefinition

TINY = str(Path(__file__).parents[1] / "tiny.yaml")
MODELS = "search.space={model: {choice: [mlp-8, mlp-64-64]}, temperature: {log: [1, 20]}}"
NOTHING_FIRST = "search.try_first=[]"


class Heard(Observer):
    def __init__(self) -> None:
        self.ends: list[tuple[int, JobState, Metrics, str]] = []

    def ended(self, run: StudyJob, state: JobState, metrics: Metrics, reason: str) -> None:
        self.ends.append((run.number, state, metrics, reason))


@pytest.fixture
def search(tiny_study: Callable[..., StudyDefinition], tmp_path: Path) -> Callable[..., Any]:
    """A search with its history, and what the study hears of its trials."""

    def made(*overrides: str) -> tuple[StudyDefinition, optuna.Study, OptunaSearcher, Heard]:
        study = tiny_study(MODELS, NOTHING_FIRST, *overrides)
        data, store, heard = data_of(study), Store.open(str(tmp_path / "store")), Heard()
        history = open_history(study, data, ["a", "b"], store, None)
        resources = WorkerResources.of(study, trial_sharing(study))
        meter = CostMeter(study, data, store)
        end = Deadline()
        trials = _Trials(study, data, ["a", "b"], store, resources, heard, lambda: None, meter, end)
        history.sampler = make_sampler(study.search, len(history.trials))
        return study, history, OptunaSearcher(history, study.search, trials), heard

    return made


def run_all(searcher: OptunaSearcher) -> None:
    """Every trial to its end, in one epoch each."""
    number = 0
    while searcher.next_task(str(number)) is not None:
        epochs = [{"epoch": 1, "val/nll": 1 / (1 + number)}]
        end = Finished({"val/nll": 1 / (1 + number)}, 1.0)
        searcher.on_epochs(str(number), epochs)
        searcher.on_end(str(number), end)
        number += 1


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_what_exceeds_a_limit_is_not_trained(search: Any, sampler: str) -> None:
    study, history, searcher, heard = search(
        "search.limits={parameters: 2k}", "search.trials=6", f"search.sampler={sampler}"
    )
    run_all(searcher)
    states = [job_state(trial) for trial in history.trials]
    assert states.count(JobState.FINISHED) == len(counted(history)) == 6
    infeasible = [t for t in begun(history) if job_state(t) == JobState.INFEASIBLE]
    assert infeasible, "the sampler drew nothing that exceeds the limit, so nothing is shown"
    for trial in infeasible:
        assert (trial.state, trial.intermediate_values) == (TrialState.PRUNED, {})
        assert trial.params["model"] == "mlp-64-64"
        assert trial.constraints == {"parameters": pytest.approx(8970 / 2000 - 1)}
        assert trial.user_attrs["reason"] == "parameters 8,970 over the limit 2,000"
    told = [end for end in heard.ends if end[1] == JobState.INFEASIBLE]
    assert [end[0] for end in told] == [trial.number for trial in infeasible]
    assert told[0][2]["cost/parameters"] == 8970
    finished = next(end for end in heard.ends if end[1] == JobState.FINISHED)
    assert {"val/nll", "cost/parameters", "cost/macs", "cost/megabytes"} <= finished[2].keys()
    assert is_over(history, study.search)


def test_a_search_that_finds_only_what_is_infeasible_ends(search: Any) -> None:
    study, history, searcher, _ = search(
        "search.limits={parameters: 2k}",
        "search.space={model: {choice: [mlp-64-64, mlp-64-64-64]}}",
        "search.trials=2",
    )
    run_all(searcher)
    assert len(begun(history)) == 2 * INFEASIBLE_PER_TRIAL
    assert counted(history) == [] and is_over(history, study.search)


def test_a_cost_is_an_objective(search: Any) -> None:
    _, history, searcher, _ = search(
        "search.objectives={val/nll: min, cost/macs: min}", "search.scheduler=none"
    )
    run_all(searcher)
    macs = {"mlp-8": 64 * 8 + 8 * 10, "mlp-64-64": 64 * 64 * 2 + 64 * 10}
    assert [trial.values[1] for trial in history.trials] == [
        macs[trial.params["model"]] for trial in history.trials
    ]


def test_latency_is_measured_once_and_kept(
    tiny_study: Callable[..., StudyDefinition], tmp_path: Path
) -> None:
    overrides = (MODELS, NOTHING_FIRST, "search.limits={latency-ms: 1000}", "student.model=mlp-8")
    study = tiny_study(*overrides)
    store = Store.open(str(tmp_path / "store"))
    drawn = {"model": "mlp-8", "temperature": 4.0}
    CostMeter(study, data_of(study), store).check(measuring=True)
    kept = store.names("latencies")
    assert len(kept) == 3, "one for each architecture, whatever the method and temperature"
    costs = [CostMeter(study, data_of(study), store).of(drawn) for _ in range(2)]
    assert costs[0] == costs[1] and costs[0]["cost/latency-ms"] > 0
    assert store.names("latencies") == kept
    (record,) = [
        r for key in kept if (r := store.get(f"latencies/{key}")) and r.info["model"] == "mlp-8"
    ]
    timing = record.info["timing"]
    assert 0 < timing["median"] <= timing["percentile_95"] and timing["runs"] >= 30
    batch = tiny_study(
        MODELS, NOTHING_FIRST, "search.limits={latency-ms: 1000}", "search.latency.batch_size=64"
    )
    CostMeter(batch, data_of(batch), store).of(drawn)
    assert len(store.names("latencies")) == 4


def test_bfloat16_is_measured_in_torch(
    tiny_study: Callable[..., StudyDefinition], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By autocast, and kept apart from float32."""
    monkeypatch.setattr(timing, "TIMED_S", 0.0)
    computed: dict[str, set[torch.dtype]] = {"fp32": set(), "bf16": set()}
    store = Store.open(str(tmp_path / "store"))
    for precision, dtypes in computed.items():
        study = tiny_study(
            MODELS,
            NOTHING_FIRST,
            "search.limits={latency-ms: 1000}",
            f"search.latency.precision={precision}",
        )

        def note(module: Any, images: Any, output: Any, to: Any = dtypes) -> None:
            if isinstance(module, torch.nn.Linear):
                to.add(output.dtype)

        hook = torch.nn.modules.module.register_module_forward_hook(note)
        try:
            CostMeter(study, data_of(study), store).of({"model": "mlp-8", "temperature": 4.0})
        finally:
            hook.remove()
    # Counting operations, which comes first, is in float32
    assert computed == {"fp32": {torch.float32}, "bf16": {torch.float32, torch.bfloat16}}
    assert len(store.names("latencies")) == 2


def test_int8_is_measured_as_it_is_exported(
    tiny_study: Callable[..., StudyDefinition], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its own graph, in whole numbers, and kept apart; what was measured in float32 before there
    was a choice is found again.
    """
    onnx = pytest.importorskip("onnx")
    monkeypatch.setattr(timing, "TIMED_S", 0.0)
    graphs: list[set[str]] = []

    def session(file: Path, *, threads: int) -> Any:
        graphs.append({node.op_type for node in onnx.load(file).graph.node})
        return graph_session(file, threads=threads)

    monkeypatch.setattr(load, "graph_session", session)
    store = Store.open(str(tmp_path / "store"))
    for precision in ("fp32", "int8"):
        study = tiny_study(
            MODELS,
            NOTHING_FIRST,
            "search.limits={latency-ms: 1000}",
            f"search.latency={{engine: onnxruntime, precision: {precision}}}",
        )
        costs = CostMeter(study, data_of(study), store).of({"model": "mlp-8", "temperature": 4.0})
        assert costs["cost/latency-ms"] > 0
    without, with_int8 = graphs
    assert "QuantizeLinear" in with_int8 and "QuantizeLinear" not in without
    records = [store.get(f"latencies/{key}") for key in store.names("latencies")]
    assert sorted(str(r and r.info.get("precision")) for r in records) == ["None", "int8"]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ("{parameters: 10}", "search.limits.parameters: found 10, and no student"),
        ("{parameters: 1k, macs: 500}", "search.limits.macs: found 500, and no student"),
        ("{latency-ms: 1.0e-9}", "search.limits.latency-ms: found 1e-09, and no student"),
    ],
)
def test_limits_that_nobody_meets_are_refused(
    tiny_study: Callable[..., StudyDefinition], tmp_path: Path, limits: str, message: str
) -> None:
    study = tiny_study(MODELS, NOTHING_FIRST, f"search.limits={limits}")
    meter = CostMeter(study, data_of(study), Store.open(str(tmp_path / "store")))
    with pytest.raises(RequestError, match=message):
        meter.check(measuring=True)


def test_validate_refuses_limits_that_nobody_meets(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--set", "search.limits={parameters: 10}"]
    assert main(["validate", TINY, *options]) == 2
    assert "no student that can be drawn keeps within it" in capsys.readouterr().err
    assert main(["validate", TINY, "--set", "search.limits={parameters: 100k}"]) == 0


@pytest.mark.parametrize("method", ["kd", "latent-be", "hydra"])
def test_counts_are_those_of_the_deployed_network(method: str) -> None:
    recipe = Recipe(model="wrn-10-1", method=METHODS[method]())
    outline = deployed_network(recipe, 10, (1, 8, 8), outlined=True)
    real = deployed_network(recipe, 10, (1, 8, 8))
    costs = counted_costs(outline, (1, 8, 8))
    assert costs == counted_costs(real, (1, 8, 8))
    assert costs["parameters"] == sum(parameter.numel() for parameter in real.parameters())
    assert costs.keys() == COSTS.keys() - {"latency-ms"}
