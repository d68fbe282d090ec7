"""Every kind of mistake: its line, its field, what was found and what is allowed; and all of them
in one pass.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from distill_ray.study import StudyDefinition, parse_search

Refusal = Callable[..., list[str]]

HEAD = "name: x\n"
TEACHERS = "teachers: {model: wrn-10-1}\n"
STUDENT = "student: {model: wrn-10-1}\n"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("temperture: 4", "student.temperture: unknown field; did you mean 'temperature'?"),
        (
            "zzz: 4",
            "student.zzz: unknown field (known: teachers, model, method, augmentation, epochs, "
            "batch_size, accumulate, lr, optimizer,",
        ),
        ("temperature: -1", "student.temperature: found -1, must be above 0"),
        ("temperature: '4'", "student.temperature: found '4', must be a number, above 0"),
        ("temperature:", "student.temperature: found nothing, must be a number, above 0"),
        ("temperature: true", "student.temperature: found true, must be a number, above 0"),
        ("temperature: .nan", "student.temperature: found nan, must be finite"),
        ("temperature: .inf", "student.temperature: found inf, must be finite"),
        ("temperature: [1, 2]", "student.temperature: found [1, 2], must be a number, above 0"),
        ("alpha: 1.5", "student.alpha: found 1.5, must be at least 0, at most 1"),
        ("epochs: 2.0", "student.epochs: found 2.0, must be a whole number, at least 1"),
        ("epochs: 0", "student.epochs: found 0, must be at least 1"),
        ("nesterov: 1", "student.nesterov: found 1, must be true or false"),
        (
            "schedule: cosin",
            "student.schedule: found 'cosin', must be one of cosine, step; did you mean 'cosine'?",
        ),
        (
            "schedule: step, milestones: 3",
            "student.milestones: found 3, must be a list, each item a whole number, at least 1",
        ),
        (
            "schedule: step, milestones: [3, x]",
            "student.milestones.1: found 'x', must be a whole number, at least 1",
        ),
        ("schedule: step, milestones: [0, 3]", "student.milestones.0: found 0, must be at least 1"),
        ("schedule: step, milestones: [6, 3]", "student.milestones: found [6, 3], must rise"),
        (
            "schedule: step, milestones: [3, 12]",
            "student.milestones: found [3, 12], must be below epochs (12)",
        ),
        ("milestones: [3, 6]", "student.milestones: found [3, 6], which is for schedule: step"),
        ("warmup_epochs: 12", "student.warmup_epochs: found 12.0, must be below epochs (12)"),
        ("lr: 0.1, final_lr: 0.2", "student.final_lr: found 0.2, must be at most lr (0.1)"),
        ("ema: 1.5", "student.ema: found 1.5, must be above 0, below 1"),
        ("momentum: 0", "student.momentum: found 0.0, must be above 0 with nesterov: true"),
        ("method: kdd", "student.method: unknown method 'kdd'; did you mean 'kd'?"),
        ("method: 3", "student.method: found 3, must be the name of a method: "),
        ("method: [kd]", 'student.method: found ["kd"], must be the name of a method: '),
        (
            "augmentation: crop_flip",
            "student.augmentation: unknown augmentation 'crop_flip'; did you mean 'crop-flip'?",
        ),
        (
            "augmentation: {padding: 3}",
            'student.augmentation: found {"padding": 3}, must be the name of an augmentation, or '
            "name and settings: ",
        ),
        (
            "augmentation: {name: crop-flip, paddin: 3}",
            "student.augmentation.paddin: unknown field; did you mean 'padding'?",
        ),
        (
            "augmentation: {name: crop-flip, padding: -3}",
            "student.augmentation.padding: found -3, must be at least 0",
        ),
        (
            "augmentation: {name: identity, padding: 3}",
            "student.augmentation.padding: augmentation 'identity' has no settings",
        ),
        (
            "teacher_weights: [0, 0, 0]",
            "student.teacher_weights: teacher_weights must not all be 0",
        ),
        (
            "teacher_weights: [1, 2]",
            "student.teacher_weights: teacher_weights must be one for each of 3 teachers, found 2",
        ),
    ],
)
def test_student(refusal: Refusal, fields: str, message: str) -> None:
    lines = refusal(HEAD + TEACHERS + "student:\n  {model: wrn-10-1,\n   " + fields + "}\n")
    assert len(lines) == 1
    line = 3 if message.startswith("student:") else 5
    assert lines[0].startswith(f"study.yaml:{line}: {message}")


def test_none_is_no_misspelling(refusal: Refusal) -> None:
    """Though its letters are those of `cosine`, in their order."""
    (line,) = refusal(HEAD + TEACHERS + "student: {model: wrn-10-1, schedule: none}\n")
    assert line.endswith("found 'none', must be one of cosine, step")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("student.augment=flip", "student.augment: unknown field; it is called 'augmentation' now"),
        (
            "teachers.augment=flip",
            "teachers.augment: unknown field; it is called 'augmentation' now",
        ),
        (
            "search.space={augment: {choice: [flip]}}",
            "search.space.augment: unknown field; it is called 'augmentation' now",
        ),
        (
            "search.space={augment.padding: {int: [1, 2]}}",
            "search.space.augment.padding: unknown field; it is called 'augmentation.padding' now",
        ),
        ("search.retries=1", "search.retries: unknown field; it is called 'resources.retries' now"),
        (
            "resources.signals=auto",
            "resources.signals: unknown field; it is called 'teacher_logits.mode' now",
        ),
        (
            "resources.signals_top_k=3",
            "resources.signals_top_k: unknown field; it is called 'teacher_logits.top_k' now",
        ),
        (
            "resources.teacher_logits.mode=stored",
            "resources.teacher_logits.mode: found 'stored', must be one of auto, cached, live; "
            "it is called 'cached' now",
        ),
    ],
)
def test_what_was_renamed_is_refused_with_its_new_name(
    refusal: Refusal, override: str, message: str
) -> None:
    assert refusal(HEAD + TEACHERS + STUDENT, override) == [f"--set: {message}"]


def test_settings_of_another_method(refusal: Refusal) -> None:
    text = HEAD + TEACHERS + "student: {model: wrn-10-1, method: supervised, anneal_until: 4}\n"
    lines = refusal(text, "search.space={lr: {log: [0.1, 1]}}")
    assert lines == [
        "study.yaml:3: student.anneal_until: no setting of method supervised (endd has it)"
    ]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            "name: a/b",
            "name: found 'a/b', must be letters, digits and . _ -, first a letter or digit, at "
            "most 100 of them",
        ),
        ("name: ..", "name: found '..', must be letters"),
        ("name: -x", "name: found '-x', must be letters"),
        ("name: no", "name: found false, must be letters"),
        (f"name: {'x' * 101}", "name: found 'xxx"),
        ("name: 'x\\n'", "name: found 'x\\\\n', must be letters"),
        ("dta: {}", "dta: unknown field; did you mean 'data'?"),
        ("data: digits", "data: found 'digits', must be a section with fields"),
        ("data: {validation: 0}", "data.validation: found 0, must be at least 1"),
        (
            "data: {resize: 256}",
            "data.resize: found 256, is for images with a size, the side that networks see",
        ),
        (
            "data: {size: 224, resize: 200}",
            "data.resize: found 200, must be at least 224, the side that networks see",
        ),
        (
            "data: {validation: many}",
            "data.validation: found 'many', must be a whole number or null, at least 1",
        ),
        (
            "data: {split: stratifed}",
            "data.split: found 'stratifed', must be one of stratified, last; did you mean "
            "'stratified'?",
        ),
        ("seed: 1.5", "seed: found 1.5, must be a whole number, at least 0"),
        (
            "resources: {gpus_per_worker: 1.5}",
            "resources.gpus_per_worker: found 1.5, must be a whole number, or below 1 to share a "
            "GPU",
        ),
        (
            "resources: {gpus_per_worker: 0.25, workers_per_trial: 2}",
            "resources.gpus_per_worker: found 0.25, but the 2 workers of one job cannot share a "
            "GPU; give each a whole one",
        ),
        (
            "resources: {compile: on}",
            "resources.compile: found true, must be one of auto, always, never",
        ),
        (
            "resources: {teacher_logits: {top_k: 0}}",
            "resources.teacher_logits.top_k: found 0, must be at least 1",
        ),
        (
            "resources: {teacher_logits: {top_k: many}}",
            "resources.teacher_logits.top_k: found 'many', must be a whole number or null, at "
            "least 1",
        ),
        (
            "resources: {teacher_logits: {mode: lve}}",
            "resources.teacher_logits.mode: found 'lve', must be one of auto, cached, live; did "
            "you mean 'live'?",
        ),
        (
            "resources: {teacher_logits: {gigabytes: 3}}",
            "resources.teacher_logits.gigabytes: unknown field (known: mode, precision, gb, top_k)",
        ),
        (
            "resources: {teacher_logits: live}",
            "resources.teacher_logits: found 'live', must be a section with fields",
        ),
        ("resources: {retries: -1}", "resources.retries: found -1, must be at least 0"),
        (
            "resources: {workers_per_trial: 0}",
            "resources.workers_per_trial: found 0, must be at least 1",
        ),
        ("teachers: []", "teachers: missing; name at least their model"),
        ("teachers:", "teachers: missing; name at least their model"),
        (
            "teachers: {members: 2}",
            "teachers.model: missing; name an architecture, such as wrn-16-2",
        ),
        ("teachers: wrn-10-1", "teachers: found 'wrn-10-1', must be a section with fields"),
        (
            "teachers: {model: wrn-10-1, members: 0}",
            "teachers.members: found 0, must be at least 1, at most 100",
        ),
        (
            "teachers: {model: wrn-10-1, members: 2, seeds: [1]}",
            "teachers.members: found 2, but `seeds` has 1; leave one of the",
        ),
        (
            "teachers: {model: wrn-10-1, seeds: [1, 1]}",
            "teachers.seeds: found [1, 1], must be at least one seed, all different",
        ),
        (
            "teachers: {model: wrn-10-1, seeds: []}",
            "teachers.seeds: found [], must be at least one seed, all different",
        ),
        (
            "teachers: {model: wrn-10-1, method: kd}",
            "teachers.method: method 'kd' needs teachers itself; teachers learn from labels",
        ),
        ("teachers: {model: wrn-11-1}", "teachers.model: "),
        *(
            (f"teachers: {{model: {name}}}", f"teachers.model: {reason}")
            for name, reason in {
                "mlp-" + "9" * 30: "99999999999999999999 is too large for a network; 10,000 is",
                "mlp-10001": "10001 is too large for a network; 10,000 is the most",
                "mlp-1" + "-1" * 20_000: "a network of 20001 layers; 100 is the most",
                "wrn-100000006-100": "100000006 is too large for a network; 1,000 is the most",
                "pre-wrn-28-101": "101 is too large for a network; 100 is the most",
                "resnet60002": "60002 is too large for a network; 1,000 is the most",
                "lenet-6-mlp-99999999999": "99999999999 is too large for a network",
                "basic-resnet-1" + "-1" * 100: "a network of 101 layers; 100 is the most",
            }.items()
        ),
        ("teachers: {model: 3}", "teachers.model: found 3, must be text"),
        (
            "teachers: {model: wrn-10-1, anneal_until: 4}",
            "teachers.anneal_until: no setting of method supervised (endd has it)",
        ),
        (
            "teachers: [{model: wrn-10-1, seeds: [0]}, {model: wrn-10-1, seeds: [0]}]",
            "teachers.1.seeds: seed 0 with the same settings is in teachers.0 already; the two "
            "would be one network",
        ),
        ("confirm: {seeds: 0}", "confirm.seeds: found 0, must be at least 1, at most 100"),
        ("confirm: {top: 21}", "confirm.top: found 21, but the search has only 20 trials"),
        (
            "search: {for_each: alpha}",
            "search.for_each: found 'alpha', must be a setting of search.space with choices and "
            "without `when`: none",
        ),
        (
            "search: {for_each: method, trials: 7, space: {method: {choice: [kd, dkd]}}}",
            "search.trials: found 7, must be a multiple of 2, an equal share for each method",
        ),
        (
            "search: {for_each: method, scheduler: asha, space: {method: {choice: [kd, dkd]}}}",
            "search.scheduler: found asha, which compares the trials of every method",
        ),
        (
            "confirm: {baselines: [scrach]}",
            "confirm.baselines.0: found 'scrach', must be scratch, fine-tuned, default-kd or "
            "student-ensemble; others are written",
        ),
        (
            "confirm: {baselines: scratch}",
            "confirm.baselines: found 'scratch', must be a list of scratch, fine-tuned, "
            "default-kd, student-ensemble, or",
        ),
        (
            "confirm: {baselines: {best: {lr: 1}}}",
            "confirm.baselines.best: not a name for a baseline",
        ),
        (
            "confirm: {baselines: {best-2: {lr: 1}}}",
            "confirm.baselines.best-2: not a name for a baseline",
        ),
        (
            "confirm: {baselines: {hot: {temprature: 1}}}",
            "confirm.baselines.hot.temprature: unknown field; did you mean 'temperature'?",
        ),
        (
            "confirm: {baselines: {scratch: {temperature: 1}}}",
            "confirm.baselines.scratch.temperature: no setting of method supervised",
        ),
        (
            "confirm: {baselines: {hot: {teacher_weights: [1]}}}",
            "confirm.baselines.hot: teacher_weights must be one for each of 3 teachers, found 1",
        ),
    ],
)
def test_other_sections(refusal: Refusal, section: str, message: str) -> None:
    given = section.split(":")[0]
    parts = {"name": HEAD, "teachers": TEACHERS, "student": STUDENT} | {given: section + "\n"}
    lines = refusal("".join(parts.values()))
    assert len(lines) == 1
    line = list(parts).index(given) + 1
    assert lines[0].startswith(f"study.yaml:{line}: {message}")


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ("trials: 0", "trials: found 0, must be at least 1"),
        ("trails: 4", "trails: unknown field; did you mean 'trials'?"),
        (
            "objectives: val/nll",
            "objectives: found 'val/nll', must be metrics with their direction, such as {val/nll: "
            "min}",
        ),
        ("objectives: {}", "objectives: found {}, must be metrics with their direction"),
        (
            "objectives: {val/nl: min}",
            "objectives.val/nl: unknown metric 'val/nl'; did you mean 'val/nll'?",
        ),
        (
            "objectives: {val/accuracy: min}",
            "objectives.val/accuracy: found 'min', must be max: that is where val/accuracy is "
            "better",
        ),
        (
            "objectives: {cost/macs: min}",
            "objectives.cost/macs: is a cost, and the first objective ranks; name a metric",
        ),
        (
            "objectives: {val/nll: min, cost/macs: max}, scheduler: none",
            "objectives.cost/macs: found 'max', must be min: fewer is better",
        ),
        (
            "limits: {parameters: 500 kB}",
            "limits.parameters: found '500 kB', must be a number above 0, or such as 500k, 2M",
        ),
        (
            "limits: {latency-ms: 5s}",
            "limits.latency-ms: found '5s', must be a number above 0, in ms",
        ),
        ("limits: {macs: 0}", "limits.macs: found 0, must be a number above 0"),
        ("limits: {latency: 5}", "limits.latency: unknown cost 'latency'; did you mean 'latency-m"),
        ("limits: 5", "limits: found 5, must be a section with fields"),
        ("stop: {patience: 0}", "stop.patience: found 0, must be at least 1"),
        ("stop: 10", "stop: found 10, must be a section with fields patience"),
        ("budget: {}", "budget: found {}, must have epochs, gpu_hours or kwh"),
        ("budget: {gpu_hours: 3}", "budget.gpu_hours: trials have no GPUs here (resources.gpus_p"),
        (
            "prior: {temperature: 40}",
            "prior.temperature: found 40, which is outside the search space: log [1, 20]",
        ),
        ("prior: {lr: 0.1}", "prior.lr: not in the search space, which has temperature, alpha"),
        ("latency: {threads: 2}", "latency: nothing asks for it; limit latency-ms, or make cost/"),
        (
            "limits: {latency-ms: 5}, latency: {engine: tvm}",
            "latency.engine: found 'tvm', must be one of torch, onnxruntime",
        ),
        (
            "limits: {latency-ms: 5}, latency: {engine: onnxruntime, precision: bf16}",
            "latency.precision: onnxruntime computes nothing in bf16 on processors; set engine: "
            "torch",
        ),
        (
            "limits: {latency-ms: 5}, latency: {precision: int8}",
            "latency.precision: int8 runs in onnxruntime, and the engine is torch; set engine: "
            "onnxruntime",
        ),
        ("objectives: {val/nll: up}", "objectives.val/nll: found 'up', must be min"),
        (
            "objectives: {val/nll: min, val/accuracy: max}, scheduler: asha",
            "scheduler: asha compares trials by one objective, and there are 2; use scheduler: "
            "none",
        ),
        (
            "sampler: tpee",
            "sampler: found 'tpee', must be one of auto, tpe, gp, cmaes, random, grid, qmc, nsga2, "
            "nsga3; did you mean 'tpe'?",
        ),
        (
            "scheduler: ahsa",
            "scheduler: found 'ahsa', must be asha, hyperband, median, paired, none, or {name: "
            "asha, grace_epochs: 3, reduction: 3}",
        ),
        ("scheduler:", "scheduler: found nothing, must be asha, hyperband, median, paired, none"),
        (
            "scheduler: {name: median, reduction: 3}",
            "scheduler.reduction: median has no rungs; it is for asha and hyperband",
        ),
        (
            "scheduler: paired, space: {epochs: {int: [5, 9]}}",
            "scheduler: paired compares trials epoch by epoch, and they have different numbers",
        ),
        ("sampler: cmaes, space: {lr: {log: [0.1, 1]}}", "sampler: cmaes needs two settings"),
        (
            "sampler: cmaes, space: {lr: {log: [0.1, 1]}, model: {choice: [mlp-8, mlp-9]}}",
            "sampler: cmaes searches numbers, not choices (model); use tpe or gp",
        ),
        (
            "sampler: gp, space: {method: {choice: [kd, hydra]}, alpha: {uniform: [0, 1]}}",
            "sampler: gp cannot draw what depends on another choice (alpha); use tpe",
        ),
        (
            "sampler: cmaes, objectives: {val/nll: min, val/accuracy: max}, scheduler: none",
            "sampler: cmaes has one objective, and there are 2; use tpe or nsga2",
        ),
        ("sampler: nsga3", "sampler: nsga3 is for several objectives, and there is one; use tpe"),
        (
            "sampler: grid",
            "sampler: a grid needs choices, or numbers in steps, and of these it has neither: "
            "temperature",
        ),
        (
            "sampler: grid, trials: 9, space: {epochs: {int: [5, 9]}}",
            "trials: found 9, but the grid has only 5 configurations; leave it out to try each",
        ),
        (
            "scheduler: {name: asha, grace: 3}",
            "scheduler.grace: unknown field; did you mean 'grace_epochs'?",
        ),
        (
            "scheduler: {name: asha, reduction: 1}",
            "scheduler.reduction: found 1, must be at least 2",
        ),
        (
            "scheduler: {name: asha, grace_epochs: 12}",
            "scheduler.grace_epochs: found 12, must be below the student's 12 epochs",
        ),
        (
            "time_limit: 90",
            "time_limit: found 90, must be a length of time with its unit: 90s, 45m, 2h, 1h30m",
        ),
        ("time_limit: 0s", "time_limit: found '0s', must be a length of time"),
        (
            "study_time_limit: 4",
            "study_time_limit: found 4, must be a length of time with its unit: 90s, 45m, 2h",
        ),
        ("time_limit: soon", "time_limit: found 'soon', must be a length of time"),
        (f"time_limit: {'9' * 400}d", "time_limit: found '999"),
        ("max_failed_trials: 0", "max_failed_trials: found 0, must be at least 1"),
        ("max_concurrent: 0", "max_concurrent: found 0, must be at least 1"),
        ("space: {}", "space: nothing to search; name a field of the student and its range"),
        ("space:", "space: nothing to search; name a field of the student and its range"),
        (
            "try_first: {temperature: 4}",
            'try_first: found {"temperature": 4}, must be a list of configurations',
        ),
        (
            "try_first: [{lr: 0.1}]",
            "try_first.0.lr: not in the search space, which has temperature, alpha",
        ),
        (
            "try_first: [{temperature: 30}]",
            "try_first.0.temperature: found 30, which is outside the search space: log [1, 20]",
        ),
        (
            "try_first: [{temperature: hot}]",
            "try_first.0.temperature: found 'hot', must be a number, above 0",
        ),
        (
            "trials: 1, try_first: [{}, {}]",
            "try_first: found 2 configurations, but the number of trials is 1",
        ),
    ],
)
def test_search(refusal: Refusal, search: str, message: str) -> None:
    lines = refusal(HEAD + TEACHERS + STUDENT + "search:\n  {" + search + "}\n")
    assert len(lines) == 1
    assert lines[0].startswith(f"study.yaml:5: search.{message}")


def test_an_engine_that_is_not_installed(refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        parse_search.importlib.util, "find_spec", lambda name: None if name == "onnx" else name
    )
    search = "limits: {latency-ms: 5}, latency: {engine: onnxruntime}"
    (line,) = refusal(HEAD + TEACHERS + STUDENT + f"search:\n  {{{search}}}\n")
    assert line == (
        "study.yaml:5: search.latency.engine: found onnxruntime, which needs onnx, "
        "not installed here; pip install 'distill-ray[onnx]'"
    )


@pytest.mark.parametrize(
    ("dimension", "message"),
    [
        ("temperture: {log: [1, 2]}", "temperture: unknown field; did you mean 'temperature'?"),
        (
            "lr: 0.1",
            "lr: found 0.1, must be one of {uniform: [0, 1]}, {log: [0.001, 1]}, {int: [1, 8]} or "
            "{choice: [a, b]}; a fixed",
        ),
        (
            "lr: {log: [0.1, 1], uniform: [0.1, 1]}",
            'lr: found {"log": [0.1, 1], "uniform": [0.1, 1]}, must be one of',
        ),
        ("lr: {loguniform: [0.1, 1]}", 'lr: found {"loguniform": [0.1, 1]}, must be one of'),
        ("lr: {log: [0.1, 1], wen: {}}", "lr.wen: unknown field; did you mean 'when'?"),
        ("lr: {log: 0.1}", "lr.log: found 0.1, must be the lower and the upper limit: [1, 8]"),
        (
            "lr: {log: [0.1, 0.2, 0.3]}",
            "lr.log: found [0.1, 0.2, 0.3], must be the lower and the upper limit",
        ),
        (
            "lr: {log: [1, 0.1]}",
            "lr.log: found [1, 0.1], the lower limit must be below the upper one",
        ),
        (
            "lr: {uniform: [0.1, 0.1]}",
            "lr.uniform: found [0.1, 0.1], the lower limit must be below the upper one",
        ),
        ("lr: {log: [0, 1]}", "lr.log.0: found 0, must be above 0"),
        ("lr: {uniform: [0.1, big]}", "lr.uniform.1: found 'big', must be a number, above 0"),
        (
            "weight_decay: {log: [0, 1]}",
            "weight_decay.log: found [0, 1], the limits of a logarithmic range must be above 0",
        ),
        ("alpha: {uniform: [0, 1.5]}", "alpha.uniform.1: found 1.5, must be at least 0, at most 1"),
        (
            "momentum: {uniform: [0.5, 1]}",
            "momentum.uniform.1: found 1, must be at least 0, below 1",
        ),
        (
            "epochs: {uniform: [4, 8]}",
            "epochs: epochs takes whole numbers; use {int: [1, 8]} instead of uniform",
        ),
        (
            "epochs: {log: [4, 8]}",
            "epochs: epochs takes whole numbers; use {int: [1, 8], log: true} instead of log",
        ),
        ("epochs: {int: [4.5, 8]}", "epochs.int.0: found 4.5, must be a whole number, at least 1"),
        (
            "epochs: {int: [4, 8], log: yes please}",
            'epochs: found {"int": [4, 8], "log": "yes please"}, must be one of',
        ),
        (
            "epochs: {int: [4, 8], log: true, step: 2}",
            "epochs.step: a logarithmic range has no steps",
        ),
        (
            "epochs: {int: [4, 8], step: 3}",
            "epochs.step: found 3, whole steps must lead from 4 to 8",
        ),
        (
            "lr: {uniform: [0.1, 0.2], step: 0}",
            "lr.step: found 0.0, whole steps must lead from 0.1 to 0.2",
        ),
        (
            "schedule: {int: [1, 2]}",
            "schedule: schedule takes one of cosine, step, not a range; use choice",
        ),
        ("method: {int: [1, 2]}", "method: method takes a name, not a range; use choice"),
        (
            "schedule: {choice: []}",
            "schedule.choice: found [], must be a list of at least one value",
        ),
        (
            "schedule: {choice: cosine}",
            "schedule.choice: found 'cosine', must be a list of at least one value",
        ),
        (
            "schedule: {choice: [cosine, cosin]}",
            "schedule.choice.1: found 'cosin', must be one of cosine, step; did you mean 'cosine'?",
        ),
        ("lr: {choice: [0.1, 0.1]}", "lr.choice.1: found 0.1 a second time"),
        ("lr: {choice: [0.1, -1]}", "lr.choice.1: found -1, must be above 0"),
        ("model: {choice: [wrn-10-1, wrn-11-1]}", "model.choice.1: "),
        (
            "augmentation: {choice: [flip, flop]}",
            "augmentation.choice.1: unknown augmentation 'flop'; did you mean 'flip'?",
        ),
        (
            "method: {choice: [kd, kdd]}",
            "method.choice.1: unknown method 'kdd'; did you mean 'kd'?",
        ),
        (
            "augmentation.padding: {int: [-1, 4]}",
            "augmentation.padding.int.0: found -1, must be at least 0",
        ),
        ("augmentation.size_: {int: [1, 4]}", "augmentation.size_: unknown field"),
        (
            "lr: {log: [0.1, 1], when: {method: kd}}",
            "lr.when.method: method is not a choice in this space (choices: none)",
        ),
        (
            "warmup_epochs: {uniform: [0, 12]}",
            "warmup_epochs: found [0.0, 12.0], must be below epochs (12)",
        ),
        (
            "epochs: {int: [1, 2]}, warmup_epochs: {uniform: [0, 1]}",
            "warmup_epochs: found [0.0, 1.0], must be below epochs (1)",
        ),
        (
            "momentum: {uniform: [0, 0.9]}",
            "momentum: found [0.0, 0.9], must be above 0 with nesterov: true",
        ),
        (
            "teacher_weights: {choice: [[], [1, 1]]}",
            "teacher_weights: teacher_weights must be one for each of 3 teachers, found 2 (met "
            "with teacher_weights [1.0, 1.0];",
        ),
    ],
)
def test_space(refusal: Refusal, dimension: str, message: str) -> None:
    lines = refusal(HEAD + TEACHERS + STUDENT + "search:\n  space:\n    {" + dimension + "}\n")
    assert len(lines) == 1
    assert lines[0].startswith(f"study.yaml:6: search.space.{message}")


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ("{schedule: linear}", "lr.when.schedule: found 'linear', must be one of cosine, step"),
        ("{schedule: []}", "lr.when.schedule: found [], must be one or more of cosine, step"),
        ("{alpha: 0.5}", "lr.when.alpha: alpha is not a choice in this space (choices: schedule)"),
        ("{lr: 0.5}", "lr.when.lr: lr is not a choice in this space (choices: schedule)"),
        ("schedule", "lr.when: found 'schedule', must be a section with fields"),
    ],
)
def test_conditions(refusal: Refusal, when: str, message: str) -> None:
    space = (
        "search:\n  space:\n    schedule: {choice: [cosine, step]}\n    alpha: {uniform: [0, "
        "1]}\n    lr: {log: [0.1, 1], when: "
    )
    assert refusal(HEAD + TEACHERS + STUDENT + space + when + "}\n") == [
        f"study.yaml:8: search.space.{message}"
    ]


def test_conditions_that_depend_on_each_other(refusal: Refusal) -> None:
    space = (
        "search:\n  space:\n"
        "    schedule: {choice: [cosine, step], when: {keep: last}}\n"
        "    keep: {choice: [last, best-nll], when: {schedule: step}}\n"
    )
    assert refusal(HEAD + TEACHERS + STUDENT + space) == [
        "study.yaml:6: search.space.schedule.when: the conditions of schedule, keep depend on "
        "each other"
    ]


def test_a_condition_on_a_method_that_lacks_the_setting(refusal: Refusal) -> None:
    space = (
        "search:\n  space:\n"
        "    method: {choice: [supervised, kd]}\n"
        "    temperature: {log: [1, 20], when: {method: supervised}}\n"
        "    augmentation: {choice: [identity, crop-flip]}\n"
        "    augmentation.padding: {int: [1, 4], when: {augmentation: [identity, crop-flip]}}\n"
    )
    assert refusal(HEAD + TEACHERS + STUDENT + space) == [
        "study.yaml:7: search.space.temperature.when.method: method 'supervised' has no setting "
        "'temperature'",
        "study.yaml:9: search.space.augmentation.padding.when.augmentation: augmentation "
        "'identity' has no setting 'padding'",
    ]


def test_a_setting_that_no_method_or_augmentation_in_reach_has(refusal: Refusal) -> None:
    space = (
        "search:\n  space:\n    perturb: {choice: [none, tdiv-sdiv]}\n"
        "    augmentation.padding: {int: [1, 2]}\n"
    )
    student = "student: {model: wrn-10-1, method: supervised, augmentation: identity}\n"
    assert refusal(HEAD + TEACHERS + student + space) == [
        "study.yaml:6: search.space.perturb: no setting of method supervised (latent-be has it)",
        "study.yaml:7: search.space.augmentation.padding: no setting 'padding' of augmentation "
        "identity",
    ]


def test_what_only_follows_from_another_mistake_is_not_reported(refusal: Refusal) -> None:
    space = (
        "search:\n  space:\n    augmentation.size: {int: [2, 4]}\n    temperature: {log: [1, 20]}\n"
    )
    student = "student: {model: wrn-10-1, method: kdd, augmentation: cutuot}\n"
    lines = refusal(HEAD + TEACHERS + student + space)
    assert [line.split(" (known")[0] for line in lines] == [
        "study.yaml:3: student.method: unknown method 'kdd'; did you mean 'kd'?",
        "study.yaml:3: student.augmentation: unknown augmentation 'cutuot'; did you mean 'cutout'?",
    ]


def test_a_setting_of_some_augmentations_is_drawn_for_those(
    load: Callable[..., StudyDefinition],
) -> None:
    space = (
        "search:\n  space:\n    augmentation: {choice: [mixup, cutmix, flip]}\n    "
        "augmentation.alpha: {uniform: [0.1, 2]}\n"
    )
    (condition,) = load(HEAD + TEACHERS + STUDENT + space).search.space["augmentation.alpha"].when
    assert (condition.field, condition.labels) == ("augmentation", ("mixup", "cutmix"))


def test_configurations_to_try_first_obey_conditions(
    refusal: Refusal, load: Callable[..., StudyDefinition]
) -> None:
    text = (
        HEAD + TEACHERS + STUDENT + "search:\n"
        "  try_first: [{temperature: 4, method: METHOD}]\n"
        "  space:\n    method: {choice: [supervised, kd]}\n    temperature: {log: [1, 20]}\n"
    )
    message = (
        "study.yaml:5: search.try_first.0.temperature: searched only when method is kd; say so here"
    )
    assert refusal(text.replace("METHOD", "supervised")) == [message]
    assert refusal(text.replace(", method: METHOD", "")) == [message]
    assert load(text.replace("METHOD", "kd")).search.try_first == (
        {"temperature": 4.0, "method": "kd"},
    )


def test_missing_sections_are_named(refusal: Refusal) -> None:
    assert refusal("seed: 1\n") == [
        "study.yaml:1: name: missing; it names the study in the store and in MLflow "
        "(letters, digits and . _ -, first a letter or digit, at most 100 of them)",
        "study.yaml:1: teachers: missing; name at least their model: {model: wrn-16-2, members: 3}",
        "study.yaml:1: student.model: missing; name an architecture, such as wrn-16-2",
    ]


def test_everything_wrong_is_reported_in_one_pass_in_the_order_of_the_file(
    refusal: Refusal,
) -> None:
    lines = refusal(
        "name: ../evil\n"
        "data: {validation: 0, foo: 1}\n"
        "teachers:\n"
        "  - {members: 0, model: wrn-10-1}\n"
        "  - {model: wrn-10-1, wieght_decay: 1}\n"
        "student:\n"
        "  model: wrn-10-1\n"
        "  temperature: -1\n"
        "  alpha: 2\n"
        "  epochs: many\n"
        "  warmup_epochs: 50\n"
        "search:\n"
        "  trials: 0\n"
        "  try_first: [{temperature: 100}]\n"
        "  space:\n"
        "    alpha: {uniform: [0.1, 1.5], when: {method: kd}}\n"
        "    temperature: {log: [1, 20]}\n"
        "    augmentation: {choice: [cropflip]}\n"
        "confirm: {seeds: 0, baselines: [scrach]}\n"
        "resources: {cpus_per_worker: one}\n",
        "resources.retries=-1",
    )
    assert [line.split(" ")[0] + " " + line.split(" ")[1] for line in lines] == [
        "study.yaml:1: name:",
        "study.yaml:2: data.validation:",
        "study.yaml:2: data.foo:",
        "study.yaml:4: teachers.0.members:",
        "study.yaml:5: teachers.1.wieght_decay:",
        "study.yaml:8: student.temperature:",
        "study.yaml:9: student.alpha:",
        "study.yaml:10: student.epochs:",
        "study.yaml:13: search.trials:",
        "study.yaml:14: search.try_first.0.temperature:",
        "study.yaml:16: search.space.alpha.uniform.1:",
        "study.yaml:18: search.space.augmentation.choice.0:",
        "study.yaml:19: confirm.seeds:",
        "study.yaml:19: confirm.baselines.0:",
        "study.yaml:20: resources.cpus_per_worker:",
        "--set: resources.retries:",
    ]
