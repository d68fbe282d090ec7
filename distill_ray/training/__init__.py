"""Training one job in plain PyTorch. The names below are imported at first use: the data of a job
needs no torch.
"""

from typing import TYPE_CHECKING

from distill_ray._lazy import names_from

if TYPE_CHECKING:
    from distill_ray.training.dataset import Dataset, load_dataset, load_split
    from distill_ray.training.device import Worker, precision_of, precision_of_teachers
    from distill_ray.training.loop import DivergedError, Outcome, load_network, make_network, train
    from distill_ray.training.prediction import predict
    from distill_ray.training.teacher_logits import (
        ShardedTeachers,
        StoredTeachers,
        TeacherLogits,
        compute_teacher_logits,
        from_arrow,
        given_teacher_logits,
        probe_of,
        share_as_programs,
        shows_the_same,
        to_arrow,
    )
    from distill_ray.training.teacher_logits_key import TeacherLogitsKey
    from distill_ray.training.teachers import CalibratedTeachers, EpochTeachers, LiveTeachers

__all__ = [
    "CalibratedTeachers",
    "Dataset",
    "DivergedError",
    "EpochTeachers",
    "LiveTeachers",
    "Outcome",
    "ShardedTeachers",
    "StoredTeachers",
    "TeacherLogits",
    "TeacherLogitsKey",
    "Worker",
    "compute_teacher_logits",
    "from_arrow",
    "given_teacher_logits",
    "load_dataset",
    "load_network",
    "load_split",
    "make_network",
    "precision_of",
    "precision_of_teachers",
    "predict",
    "probe_of",
    "share_as_programs",
    "shows_the_same",
    "to_arrow",
    "train",
]

__getattr__ = names_from(
    __name__,
    {
        "CalibratedTeachers": "teachers",
        "Dataset": "dataset",
        "DivergedError": "loop",
        "EpochTeachers": "teachers",
        "LiveTeachers": "teachers",
        "Outcome": "loop",
        "TeacherLogitsKey": "teacher_logits_key",
        "TeacherLogits": "teacher_logits",
        "ShardedTeachers": "teacher_logits",
        "StoredTeachers": "teacher_logits",
        "Worker": "device",
        "compute_teacher_logits": "teacher_logits",
        "from_arrow": "teacher_logits",
        "given_teacher_logits": "teacher_logits",
        "load_dataset": "dataset",
        "load_network": "loop",
        "load_split": "dataset",
        "make_network": "loop",
        "precision_of": "device",
        "precision_of_teachers": "device",
        "predict": "prediction",
        "share_as_programs": "teacher_logits",
        "probe_of": "teacher_logits",
        "shows_the_same": "teacher_logits",
        "to_arrow": "teacher_logits",
        "train": "loop",
    },
)
