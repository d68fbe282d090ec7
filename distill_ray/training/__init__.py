"""Training one job in plain PyTorch."""

from distill_ray.training.dataset import Dataset, load_dataset, load_split
from distill_ray.training.device import Worker, precision_of, precision_of_teachers
from distill_ray.training.loop import DivergedError, Outcome, load_network, make_network, train
from distill_ray.training.prediction import predict
from distill_ray.training.signals import SignalKey, Signals, StoredTeachers, compute_signals, from_arrow, to_arrow
from distill_ray.training.teachers import EpochTeachers, LiveTeachers

__all__ = [
    "Dataset",
    "DivergedError",
    "EpochTeachers",
    "LiveTeachers",
    "Outcome",
    "SignalKey",
    "Signals",
    "StoredTeachers",
    "Worker",
    "compute_signals",
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
