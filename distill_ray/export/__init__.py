"""Exporting the champion: a folder in a format that other tools load, checked against the trained
student, with a model card.
"""

from distill_ray.export.champion import FORMATS, Exported, export_champion, find_champion
from distill_ray.export.load import Model, open_model

__all__ = ["FORMATS", "Exported", "Model", "export_champion", "find_champion", "open_model"]
