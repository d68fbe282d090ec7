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
        StoredTeachers,
        TeacherLogits,
        TeacherLogitsKey,
        compute_teacher_logits,
        from_arrow,
        to_arrow,
    )
    from distill_ray.training.teachers import EpochTeachers, LiveTeachers

__all__ = [
    "Dataset",
    "DivergedError",
    "EpochTeachers",
    "LiveTeachers",
    "Outcome",
    "StoredTeachers",
    "TeacherLogits",
    "TeacherLogitsKey",
    "Worker",
    "compute_teacher_logits",
    "from_arrow",
    "load_dataset",
    "load_network",
    "load_split",
    "make_network",
    "precision_of",
    "precision_of_teachers",
    "predict",
    "to_arrow",
    "train",
]

__getattr__ = names_from(
    __name__,
    {
        "Dataset": "dataset",
        "DivergedError": "loop",
        "EpochTeachers": "teachers",
        "LiveTeachers": "teachers",
        "Outcome": "loop",
        "TeacherLogitsKey": "teacher_logits",
        "TeacherLogits": "teacher_logits",
        "StoredTeachers": "teacher_logits",
        "Worker": "device",
        "compute_teacher_logits": "teacher_logits",
        "from_arrow": "teacher_logits",
        "load_dataset": "dataset",
        "load_network": "loop",
        "load_split": "dataset",
        "make_network": "loop",
        "precision_of": "device",
        "precision_of_teachers": "device",
        "predict": "prediction",
        "to_arrow": "teacher_logits",
        "train": "loop",
    },
)
