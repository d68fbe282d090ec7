"""How many versions of every image a student needs: accuracy and NLL on the test split against K.

    uv run python benchmarks/versions.py run data/cifar10 results.jsonl
    uv run python benchmarks/versions.py table results.jsonl --picture docs/images/versions.svg

Three teachers and students of `kd` and `latent-be` under `crop-flip` and `cutmix`, with 2, 4, 8 and
16 versions and with new images in every epoch; `4 own` has versions drawn anew for each seed, which
shows what sharing them between seeds does to the spread. 2,000 images of 16 by 16 pixels, tiny
networks, so that a CPU can do it. `run` adds a line per student and goes on where it stopped;
`table` prints means with 95 % intervals, and differences to new images with the seeds paired.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from distill_ray.augmentation import AUGMENTATIONS
from distill_ray.data import open_source
from distill_ray.execution.sharing import STORED
from distill_ray.execution.train_job import train_here
from distill_ray.job import Data, Job, Recipe, Split
from distill_ray.methods import METHODS
from distill_ray.metrics import validation_score
from distill_ray.records import find_job
from distill_ray.store import Store
from distill_ray.training import Worker, load_dataset, load_network, load_split, predict

CPU = Worker(torch.device("cpu"))
EPOCHS = 32
SEEDS = range(5)
KINDS = ("2", "4", "8", "16", "new", "4 own")
TEACHER, STUDENT = "lenet-32-64-mlp-128", "lenet-8-16-mlp-32"
SCORES = ("accuracy", "nll")


def run(source: str, results: Path) -> None:
    """Train what `results` does not have yet, seed by seed."""
    torch.set_num_threads(1)
    found = open_source(source)
    data = Data(
        name=found.name,
        digest=found.digest,
        location=found.location,
        label=found.label,
        split=Split(validation=200, train=2000),
        size=16,
    )
    store = Store.open(str(results.with_suffix(".store")))
    recipe = Recipe(
        model=TEACHER,
        epochs=EPOCHS,
        batch_size=128,
        lr=0.05,
        warmup_epochs=2,
        clip_norm=1.0,
        precision="fp32",
    )
    teachers = [Job(recipe=recipe, data=data, seed=seed) for seed in range(3)]
    for teacher in teachers:
        for _ in train_here(store, teacher, CPU):
            pass
    done = {
        (line["method"], line["augmentation"], line["kind"], line["seed"])
        for line in _read(results)
    }
    test = load_split(data, "test")
    dataset = load_dataset(data)
    for method in ("kd", "latent-be"):
        for seed in SEEDS:
            for augmentation in ("crop-flip", "cutmix"):
                for kind in KINDS:
                    if (method, augmentation, kind, seed) in done:
                        continue
                    count, _, own = kind.partition(" ")
                    student = replace(
                        recipe,
                        model=STUDENT,
                        method=METHODS[method](),
                        augmentation=AUGMENTATIONS[augmentation](),
                        versions=None if count == "new" else int(count),
                        augmentation_seed=100 + seed if own else 0,
                    )
                    job = Job(
                        recipe=student,
                        data=data,
                        seed=seed,
                        teachers=tuple(teacher.id for teacher in teachers),
                    )
                    for _ in train_here(store, job, CPU, sharing=STORED):
                        pass
                    record = find_job(store, job.id)
                    assert record is not None
                    network = load_network(job, record.weights(), dataset)
                    predicted = predict(
                        network, test.images, np.arange(len(test.images)), worker=CPU
                    )
                    line = {"method": method, "augmentation": augmentation, "kind": kind}
                    scores = validation_score(predicted, test.labels)
                    with open(results, "a") as file:
                        file.write(json.dumps(line | {"seed": seed} | dict(scores)) + "\n")


def table(results: Path, picture: Path | None) -> None:
    """Print what has been trained so far as Markdown, and draw it."""
    lines = _read(results)
    groups: dict[tuple[str, str], dict[str, dict[int, dict[str, float]]]] = {}
    for line in lines:
        group = groups.setdefault((line["method"], line["augmentation"]), {})
        group.setdefault(line["kind"], {})[line["seed"]] = line
    header = ["method", "augmentation", "K", "accuracy %", "NLL"]
    header += ["accuracy minus new", "NLL minus new", "seeds"]
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for (method, augmentation), kinds in groups.items():
        for kind in KINDS:
            if kind not in kinds:
                continue
            runs = kinds[kind]
            accuracy = _interval([100 * run["accuracy"] for run in runs.values()])
            nll = _interval([run["nll"] for run in runs.values()])
            cells = [method, augmentation, kind, f"{accuracy[0]:.1f} ± {accuracy[1]:.1f}"]
            cells += [f"{nll[0]:.3f} ± {nll[1]:.3f}", *_differences(runs, kinds.get("new", {}))]
            print("| " + " | ".join([*cells, str(len(runs))]) + " |")
    print()
    for method in sorted({method for method, _ in groups}):
        for name in SCORES:
            spreads = {kind: _spread(groups, method, kind, name) for kind in KINDS}
            print(f"{method}, standard deviation over seeds, {name}:", end=" ")
            print(", ".join(f"{kind} {value:.4f}" for kind, value in spreads.items()))
    if picture is not None:
        _draw(groups, picture)


def _read(results: Path) -> list[dict[str, float]]:
    return (
        [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    )


def _interval(values: list[float]) -> tuple[float, float]:
    """Mean and half of its 95 % interval, from Student's t."""
    if len(values) < 2:
        return float(np.mean(values)), math.nan
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    return float(np.mean(values)), float(stats.t.ppf(0.975, len(values) - 1) * error)


def _differences(runs: dict[int, dict[str, float]], new: dict[int, dict[str, float]]) -> list[str]:
    cells = []
    for name, scale, digits in (("accuracy", 100, 1), ("nll", 1, 3)):
        shared = sorted(runs.keys() & new.keys())
        values = [scale * (runs[seed][name] - new[seed][name]) for seed in shared]
        if runs is new or not values:
            cells.append("")
            continue
        mean, half = _interval(values)
        cells.append(f"{mean:+.{digits}f} ± {half:.{digits}f}")
    return cells


def _spread(groups: dict, method: str, kind: str, name: str) -> float:
    """The standard deviation over seeds of a method, pooled over its augmentations."""
    variances = []
    for kinds in (kinds for (other, _), kinds in groups.items() if other == method):
        values = [run[name] for run in kinds.get(kind, {}).values()]
        if len(values) > 1:
            variances.append(np.var(values, ddof=1))
    return math.sqrt(np.mean(variances)) if variances else math.nan


def _draw(groups: dict, picture: Path) -> None:
    """Both scores against K, a line for each method and augmentation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    ticks = [kind for kind in KINDS if "own" not in kind]
    for axes, name, scale in zip(figure.subplots(1, 2), SCORES, (100, 1), strict=True):
        for shift, ((method, augmentation), kinds) in enumerate(groups.items()):
            shown = [kind for kind in ticks if kind in kinds]
            points = [
                _interval([scale * run[name] for run in kinds[kind].values()]) for kind in shown
            ]
            axes.errorbar(
                [ticks.index(kind) + 0.06 * (shift - 1.5) for kind in shown],
                [mean for mean, _ in points],
                yerr=[half for _, half in points],
                marker="o",
                capsize=2,
                label=f"{method}, {augmentation}",
            )
        axes.set_xticks(range(len(ticks)), ticks)
        axes.set_xlabel("versions of every image")
        axes.set_ylabel("accuracy %" if name == "accuracy" else "NLL")
    axes.legend(fontsize=8)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, metadata={"Date": None})


def main() -> None:
    """Train or tell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("data")
    running.add_argument("results", type=Path)
    telling = commands.add_parser("table")
    telling.add_argument("results", type=Path)
    telling.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "run":
        run(arguments.data, arguments.results)
    else:
        table(arguments.results, arguments.picture)


if __name__ == "__main__":
    main()
