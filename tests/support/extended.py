"""What the study of docs/extending.md gives: one trial trained after its teachers, and what is
shown of it, as JSON. Run in the folder of the study, with the page's package installed.
"""

from __future__ import annotations

import json
import sys

from distill_ray import Study

study = Study.load("study.yaml").definition
imported = {name.partition(".")[0] for name in sys.modules}
light = sorted(imported & {"torch", "numpy", "ray", "mlflow", "my_lab"})

# Heavy packages only now, since the study is read without them.
from distill_ray.metric import METRICS  # noqa: E402
from distill_ray.records import Predictions  # noqa: E402
from distill_ray.report.page import Report  # noqa: E402
from distill_ray.report.results import Contender, StudyResults  # noqa: E402
from distill_ray.report.table import as_text  # noqa: E402
from distill_ray.resolve import data_of, teacher_runs, trial_run  # noqa: E402
from distill_ray.study.reference import pages  # noqa: E402
from distill_ray.study.schema import study_schema  # noqa: E402
from distill_ray.testing.jobs import CPU, train_to_end  # noqa: E402
from distill_ray.training import LiveTeachers, load_dataset, load_network  # noqa: E402

data = data_of(study)
dataset = load_dataset(data)
runs = teacher_runs(study, data)
networks = []
for run in runs:
    _, outcome = train_to_end(run.job, dataset)
    networks.append(load_network(run.job, outcome.weights, dataset))
drawn = {"temperature": 2.0, "augmentation.lowest": 0.25}
trial = trial_run(study, data, [run.job.id for run in runs], 0, drawn)
epochs, outcome = train_to_end(trial.job, dataset, LiveTeachers(networks, CPU.device, "fp32"))
predictions = Predictions(outcome.log_probabilities, outcome.labels)
contender = Contender("best", "best found", {}, outcome.parameters, (0,), (predictions,))
results = StudyResults(
    name="extended",
    digest="",
    study_file="",
    created="",
    status="running",
    objectives=dict(study.search.objectives),
    contenders=(contender,),
)
shown = {
    "light": light,
    "epochs": epochs,
    "job": trial.job.to_dict(),
    "table": as_text(results.rows, 200),
    "page": Report.of(results).html(),
    "schema": json.dumps(study_schema()),
    "columns": list(METRICS),
    "pages": pages(),
}
print(json.dumps(shown))
