"""A study in MLflow, written by one thread of the driver; the store stays the source of truth."""

from distill_ray.tracking.address import check_tracking, default_uri, sqlite_file
from distill_ray.tracking.champion import StudentModel
from distill_ray.tracking.run_lists import RunList, pages_of_studies, study_run_lists
from distill_ray.tracking.run_update import DataSet
from distill_ray.tracking.tracker import Tracker

__all__ = [
    "DataSet",
    "RunList",
    "StudentModel",
    "Tracker",
    "check_tracking",
    "default_uri",
    "pages_of_studies",
    "sqlite_file",
    "study_run_lists",
]
