"""Training one job in plain PyTorch."""

from distill_ray.training.dataset import Dataset, load_dataset, load_test_split
from distill_ray.training.device import Worker, precision_of
from distill_ray.training.loop import DivergedError, Outcome, load_network, make_network, train
from distill_ray.training.prediction import predict
from distill_ray.training.teachers import LiveTeachers

__all__ = [
    "Dataset",
    "DivergedError",
    "LiveTeachers",
    "Outcome",
    "Worker",
    "load_dataset",
    "load_network",
    "load_test_split",
    "make_network",
    "precision_of",
    "predict",
    "train",
]
