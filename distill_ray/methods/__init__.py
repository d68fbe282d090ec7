"""Ways to learn from labels and teachers. Importing this package is cheap: torch comes in when a loss is computed."""

from distill_ray.methods.ensemble_kd import EnsembleKD
from distill_ray.methods.method import METHODS, Method
from distill_ray.methods.supervised import Supervised

__all__ = ["METHODS", "EnsembleKD", "Method", "Supervised"]
