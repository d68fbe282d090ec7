from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from distill_ray.report import table
from distill_ray.report.page import Report
from distill_ray.report.results import StudyResults


def test_the_table_is_computed_once(study: StudyResults, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its rows fits temperatures, which takes seconds for many students."""
    fits: list[Any] = []
    fit = table.fit_temperature
    monkeypatch.setattr(table, "fit_temperature", lambda *data: (fits.append(data), fit(*data))[1])
    study = replace(study)  # others have computed the table of the fixture
    assert Report.of(study).rows == study.rows
    assert len(fits) == sum(len(contender.validation) for contender in study.contenders)
