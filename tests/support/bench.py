"""A bench that was never run."""

from distill_ray.planning.bench import LIVE, STUDENT, TEACHER_LOGITS, Bench

REFERENCE = "plain reference"

BENCH = Bench(
    machine="a machine",
    device="cpu",
    threads=2,
    batch_size=64,
    rounds=5,
    steps={STUDENT: 0.1, LIVE: 0.4, TEACHER_LOGITS: 0.104, REFERENCE: 1.2},
    cpu={STUDENT: 0.1},
    ratios={},
    teachers=0.3,
    augmentations={"of the student": 0.005, "identity": 0.0, "mixup": 0.005, "augmix": 0.095},
    per_trial=0.05,
    memory=10**9,
    teacher_logits=10**7,
)
