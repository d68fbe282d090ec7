"""The metrics, their display names and which direction is better. NumPy is imported only when one
is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from distill_ray.registry import Registry
from distill_ray.task import Task

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A score of predictions.

    `function` takes the per-sample predictions and the labels (N,), and returns the score.
    Predictions are log-probabilities, float64 (N, K), for classification, and mean and
    log-variance, (N, 2), for regression. It is None for the metrics of this package, which
    `distill_ray.metrics` computes together. `percent` says that the score is shown in percent,
    `objective` that a search can optimise its value on the validation split, as `val/<name>`.

    What `docs/metrics.md` says besides: `formula` in LaTeX with the symbols of that page, `unit`
    (fractions that are shown in percent need none), `help` on what the metric is good for and what
    to beware of, in Markdown, and `source`, a paper.

    Another package adds a metric by an entry point of group `distill_ray.metric` that loads an
    instance of this class.

    `detail` says that it is not shown in the table but beside it, and computed only for what is
    evaluated in the end, not after every epoch. `decimals` are the digits behind the point that
    people read: by default three, one where it is shown in percent.
    """

    title: str
    meaning: str
    better: Literal["min", "max"]
    percent: bool = False
    detail: bool = False
    decimals: int | None = None
    tasks: tuple[Task, ...] = ("classification",)
    objective: bool = True
    function: Callable[[np.ndarray, np.ndarray], float] | None = None
    unit: str = ""
    formula: str = ""
    help: str = ""
    source: str = ""


METRICS: Registry[Metric] = Registry("metric")
"""Every metric by name, in the order of a table's columns."""


@dataclass(frozen=True)
class Cost:
    """What the deployed network takes: `meaning` says what is counted or measured, in which
    `unit`; `whole` that it is counted.
    """

    title: str
    meaning: str
    unit: str
    whole: bool = False


COSTS = {
    "parameters": Cost("parameters", "trained numbers of the deployed network", "", whole=True),
    "macs": Cost("multiply-adds", "multiplications with an addition for one image", "", whole=True),
    "megabytes": Cost("size", "size of the weights in float32", "MB"),
    "latency-ms": Cost("latency", "median time of one batch on this machine", "ms"),
}
"""What a search can minimise as `cost/<name>`, beside a metric, or limit. All are known before a
network is trained; fewer is better.
"""


def objectives(task: Task | None = None) -> dict[str, str]:
    """What a search can optimise (with that task), and the direction in which it is better:
    `{"val/nll": "min", ..., "cost/parameters": "min", ...}`.
    """
    metrics: dict[str, str] = {
        f"val/{name}": metric.better
        for name, metric in METRICS.items()
        if metric.objective and (task is None or task in metric.tasks)
    }
    return metrics | {f"cost/{name}": "min" for name in COSTS}


def title_of(name: str) -> str:
    """The display name of metric or cost `name`; the name itself when there is no such metric."""
    known = METRICS[name] if name in METRICS else COSTS.get(name)
    return name if known is None else known.title


def is_percent(name: str) -> bool:
    """Whether `name` is shown in percent."""
    return name in METRICS and METRICS[name].percent


_BOTH: tuple[Task, ...] = ("classification", "regression")
_GUO = (
    'Guo et al. 2017, "On calibration of modern neural networks", https://arxiv.org/abs/1706.04599'
)
_CHAI = (
    'Chai & Draxler 2014, "Root mean square error (RMSE) or mean absolute error (MAE)?", '
    "https://doi.org/10.5194/gmd-7-1247-2014, on when to use which"
)

METRICS.register("accuracy")(
    Metric(
        title="accuracy",
        meaning="share of the samples that are classified correctly",
        better="max",
        percent=True,
        decimals=2,
        formula=r"\frac{1}{N} \sum_n [\hat{y}_n = y_n]",
        help="What most papers compare by. It is blind to how sure a network is, and coarse: of "
        "1000 samples each counts 0.1 %, "
        "so that small validation splits leave many trials equal, where NLL still tells them "
        "apart.",
    )
)
METRICS.register("nll")(
    Metric(
        title="NLL",
        meaning="negative log-likelihood of the true class, in nats; punishes confident errors",
        better="min",
        tasks=_BOTH,
        unit="nats",
        formula=r"""
-\frac{1}{N} \sum_n \ln p_{n y_n}
\qquad \text{for regression} \qquad
\frac{1}{2N} \sum_n \left( \ln \sigma_n^2 + \frac{(y_n - \mu_n)^2}{\sigma_n^2} \right)""",
        help="Judges the whole prediction, accuracy and calibration together, and is lowest in "
        "expectation for the true "
        "probabilities: the default objective. A single confident error can outweigh many "
        "good answers; it is infinite where a "
        "label has probability 0. For regression the constant ln(2π) / 2 is left out, as in "
        "the tables of Hydra+, so values may "
        "be negative.",
        source='Gneiting & Raftery 2007, "Strictly proper scoring rules, prediction, and '
        'estimation", '
        "https://doi.org/10.1198/016214506000001437; for regression Lakshminarayanan et al. "
        "2017, equation 1, "
        "https://arxiv.org/abs/1612.01474.",
    )
)
METRICS.register("ece")(
    Metric(
        title="ECE",
        meaning="expected calibration error: how far confidence is from accuracy",
        better="min",
        percent=True,
        formula=r"\sum_b \frac{|B_b|}{N} \, \big| \mathrm{acc}(B_b) - \mathrm{conf}(B_b) \big|",
        help="Says whether confidence can be taken at its word: of the answers given with 80 % "
        "about 80 % should be right. Do "
        "not go by it alone: a network that always names the most frequent class, with its "
        "share as confidence, has an ECE near "
        "0. Few samples bias it upwards.",
        source=f"{_GUO}, equation 3, with its 15 bins.",
    )
)
METRICS.register("brier")(
    Metric(
        title="Brier",
        meaning="squared distance between the predicted probabilities and the truth, 0 to 2",
        better="min",
        unit="none, 0 to 2",
        formula=r"\frac{1}{N} \sum_n \sum_k \big( p_{nk} - [k = y_n] \big)^2",
        help="Judges the whole prediction as NLL does, but is bounded, so that single confident "
        "errors do not dominate. It is "
        "summed over the classes; some libraries report half of it, or the mean over the classes.",
        source='Brier 1950, "Verification of forecasts expressed in terms of probability", '
        "Monthly Weather Review 78.",
    )
)
METRICS.register("oe")(
    Metric(
        title="OE",
        meaning="overconfidence error: calibration error where confidence exceeds accuracy, "
        "weighted by confidence",
        better="min",
        percent=True,
        formula=r"\sum_b \frac{|B_b|}{N} \, \mathrm{conf}(B_b) \, \max\!\big( \mathrm{conf}(B_b) "
        r"- \mathrm{acc}(B_b), 0 \big)",
        help="For uses where being too sure does harm and being too modest does not. It is at "
        "most the ECE; a student that is "
        "merely underconfident has an OE near 0.",
        source='Thulasidasan et al. 2019, "On mixup training: Improved calibration and predictive '
        "uncertainty for deep neural "
        'networks", https://arxiv.org/abs/1905.11001.',
    )
)
METRICS.register("cnll")(
    Metric(
        title="cNLL",
        meaning="NLL after temperature scaling fitted on the validation split",
        better="min",
        unit="nats",
        formula=r"-\frac{1}{N} \sum_n \ln q_{n y_n}, \qquad q_n = \mathrm{softmax}(\ln p_n / \tau)",
        help="Compares what networks know, apart from a confidence that one number mends. On the "
        "validation split the "
        "temperature is fitted to the very same predictions, so `val/cnll` serves to choose "
        "by, not to report. Where a "
        "validation split has too few errors to fit it from, the prior keeps the temperature "
        "near 1, and the report says so.",
        source='Ashukha et al. 2020, "Pitfalls of in-domain uncertainty estimation and ensembling '
        'in deep learning", '
        f"https://arxiv.org/abs/2002.06470; temperature scaling: {_GUO}.",
    )
)
METRICS.register("cece")(
    Metric(
        title="cECE",
        meaning="ECE after temperature scaling fitted on the validation split",
        better="min",
        percent=True,
        objective=False,
        formula=r"\mathrm{ECE} \text{ of } q_n = \mathrm{softmax}(\ln p_n / \tau)",
        help="The miscalibration that one temperature does not mend. An exported student answers "
        "with its temperature, so this "
        "is its ECE. On the validation split, where the temperature is fitted, it is not recorded.",
        source=f"{_GUO}.",
    )
)
METRICS.register("classwise-ece")(
    Metric(
        title="class-wise ECE",
        meaning="calibration error of the probabilities of all classes, averaged over the classes",
        better="min",
        percent=True,
        detail=True,
        objective=False,
        decimals=2,
        formula=r"\frac{1}{K} \sum_k \sum_b \frac{|B_{kb}|}{N} \, \Big| \frac{1}{|B_{kb}|} "
        r"\sum_{n \in B_{kb}} \big( [y_n = k] - p_{nk} \big) \Big|",
        help="Where every probability counts, not only the largest: the bins $B_{kb}$ are those of "
        "`p_nk`. With many classes most probabilities are near 0 and so are these errors, so "
        "compare it only between networks for the same classes.",
        source='Kull et al. 2019, "Beyond temperature scaling", https://arxiv.org/abs/1910.12656.',
    )
)
METRICS.register("adaptive-ece")(
    Metric(
        title="adaptive ECE",
        meaning="the ECE in 15 bins that hold equally many samples",
        better="min",
        percent=True,
        detail=True,
        objective=False,
        formula=r"\sum_b \frac{|B_b|}{N} \, \big| \mathrm{acc}(B_b) - \mathrm{conf}(B_b) \big|, "
        r"\qquad |B_b| \approx N / 15",
        help="Networks that are nearly always sure put most samples into the last bin of equal "
        "width, where errors of both signs cancel; here they do not. Equal confidences share a "
        "bin.",
        source="Nguyen & O'Connor 2015, \"Posterior calibration and exploratory analysis for "
        'natural language processing models", https://arxiv.org/abs/1508.05154.',
    )
)
METRICS.register("debiased-ece")(
    Metric(
        title="debiased ECE",
        meaning="the ECE less what the choice of samples adds to it by chance",
        better="min",
        percent=True,
        detail=True,
        objective=False,
        formula=r"\mathrm{ECE} - \sum_b \frac{|B_b|}{N} \big( \mathbb{E}|X_b| - |d_b| \big), "
        r"\qquad X_b \sim \mathcal{N}\!\left( d_b, "
        r"\tfrac{\mathrm{acc}(B_b) (1 - \mathrm{acc}(B_b))}{|B_b|} \right)",
        help="A perfectly calibrated network has an ECE above 0 on few samples; this estimate is "
        "nearer 0. $d_b$ is the gap of a bin, conf - acc. Where it is far below the ECE, the test "
        "split is too small for the ECE to say much.",
        source='Kumar, Liang & Ma 2019, "Verified uncertainty calibration", '
        "https://arxiv.org/abs/1909.10155, in closed form.",
    )
)
METRICS.register("aurc")(
    Metric(
        title="AURC",
        meaning="area under the risk-coverage curve: the error rate of the most confident answers, "
        "averaged over their share",
        better="min",
        percent=True,
        detail=True,
        objective=False,
        decimals=2,
        formula=r"\frac{1}{N} \sum_{n=1}^{N} r_n, \qquad r_n = \text{error rate of the } n "
        r"\text{ most confident answers}",
        help="For uses where a network may decline to answer. It falls with better accuracy and "
        "with errors that are less confident than correct answers; equally confident answers "
        "count as their mean.",
        source='Geifman, Uziel & El-Yaniv 2019, "Bias-reduced uncertainty estimation for deep '
        'neural classifiers", https://arxiv.org/abs/1805.08206.',
    )
)
METRICS.register("excess-aurc")(
    Metric(
        title="excess AURC",
        meaning="AURC less that of the same answers with all errors ranked last",
        better="min",
        percent=True,
        detail=True,
        objective=False,
        decimals=2,
        formula=r"\mathrm{AURC} - \frac{1}{N} \sum_{e=1}^{E} \frac{e}{N - E + e}, "
        r"\qquad E = \text{number of errors}",
        help="How well confidence ranks answers, apart from how many are right.",
        source="Geifman et al. 2019, https://arxiv.org/abs/1805.08206, with the exact optimum.",
    )
)
for _share in (80, 90, 95):
    METRICS.register(f"accuracy-at-{_share}")(
        Metric(
            title=f"accuracy at {_share} %",
            meaning=f"accuracy of the {_share} % most confident answers",
            better="max",
            percent=True,
            detail=True,
            objective=False,
            decimals=2,
            formula=rf"1 - r_{{\lceil 0.{_share} N \rceil}}",
            help="What is gained by leaving the others to somebody else.",
            source="Geifman et al. 2019, https://arxiv.org/abs/1805.08206.",
        )
    )
METRICS.register("balanced-accuracy")(
    Metric(
        title="balanced accuracy",
        meaning="accuracy by class, averaged over the classes",
        better="max",
        percent=True,
        detail=True,
        objective=False,
        decimals=2,
        formula=r"\frac{1}{K} \sum_k \frac{\sum_n [y_n = k] [\hat{y}_n = k]}{\sum_n [y_n = k]}",
        help="For imbalanced data, where accuracy is mostly that of the frequent classes. Classes "
        "without samples are left out.",
        source='Brodersen et al. 2010, "The balanced accuracy and its posterior distribution", '
        "https://doi.org/10.1109/ICPR.2010.764.",
    )
)
METRICS.register("macro-f1")(
    Metric(
        title="macro F1",
        meaning="F1 score by class, the harmonic mean of precision and recall, averaged over the "
        "classes",
        better="max",
        percent=True,
        detail=True,
        objective=False,
        decimals=2,
        formula=r"\frac{1}{K} \sum_k \frac{2 \sum_n [y_n = k] [\hat{y}_n = k]}"
        r"{\sum_n [y_n = k] + \sum_n [\hat{y}_n = k]}",
        help="As balanced accuracy, but naming a rare class too often costs too. Classes that "
        "neither occur nor are named are left out.",
        source='Opitz & Burst 2019, "Macro F1 and macro F1", https://arxiv.org/abs/1911.03347: the '
        "mean of the F1 scores.",
    )
)
METRICS.register("rmse")(
    Metric(
        title="RMSE",
        meaning="root of the mean squared error of the predicted mean",
        better="min",
        tasks=("regression",),
        unit="that of the labels",
        formula=r"\sqrt{\frac{1}{N} \sum_n (y_n - \mu_n)^2}",
        help="The size of a typical error, with large ones counting more. It is blind to the "
        "predicted variance.",
        source=f"{_CHAI}.",
    )
)
METRICS.register("mae")(
    Metric(
        title="MAE",
        meaning="mean absolute error of the predicted mean",
        better="min",
        tasks=("regression",),
        unit="that of the labels",
        formula=r"\frac{1}{N} \sum_n |y_n - \mu_n|",
        help="The size of the average error. Outliers move it less than RMSE; it is blind to the "
        "predicted variance.",
        source=f"{_CHAI}.",
    )
)
