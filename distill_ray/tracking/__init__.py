"""The study's record in MLflow, written by one thread of the driver; the store stays the source of
truth.
"""

from distill_ray.tracking.address import check_tracking, default_uri, redacted, shown, sqlite_file
from distill_ray.tracking.champion import StudentModel
from distill_ray.tracking.record import DataSet
from distill_ray.tracking.tracker import Tracker
from distill_ray.tracking.views import View, studies_in, study_views, view_path

__all__ = [
    "DataSet",
    "StudentModel",
    "Tracker",
    "View",
    "check_tracking",
    "default_uri",
    "redacted",
    "shown",
    "sqlite_file",
    "studies_in",
    "study_views",
    "view_path",
]
