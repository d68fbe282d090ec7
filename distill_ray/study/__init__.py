"""The study file: typed, validated in one pass, and free of torch, Ray and MLflow."""

from distill_ray.study.checks import check_against_data
from distill_ray.study.parse import load_study
from distill_ray.study.sections import (
    Confirm,
    DataSection,
    MeanOf,
    Published,
    PublishedRow,
    Resources,
    Screen,
    Search,
    TeacherGroup,
)
from distill_ray.study.space import Choice, Condition, Dimension, Label, Range, SearchSpace, Trial
from distill_ray.study.study import StudyDefinition, members

__all__ = [
    "Choice",
    "Condition",
    "Confirm",
    "DataSection",
    "Dimension",
    "Label",
    "MeanOf",
    "Published",
    "PublishedRow",
    "Range",
    "Resources",
    "Screen",
    "Search",
    "SearchSpace",
    "StudyDefinition",
    "TeacherGroup",
    "Trial",
    "check_against_data",
    "load_study",
    "members",
]
