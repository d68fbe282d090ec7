"""Layers that a method cannot compare are refused before anything is trained, with the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill_ray.cli import main

STUDY = """\
name: paired
data: {{source: digits, validation: 100}}
teachers:
- {{name: conv, members: 2, model: wrn-10-1}}
- {{name: flat, members: 1, model: mlp-8}}
student: {{{student}}}
search: {{space: {{lr: {{log: [0.01, 0.1]}}{space}}}}}
confirm: {{baselines: {{{baseline}}}}}
"""
FITS = "model: wrn-10-2, method: fitnet, teachers: [conv]"
NO_MAPS = "'mlp-8' has nothing to compare: no unit of it ends in maps of more than one pixel"


def validated(
    folder: Path, *, student: str = FITS, space: str = "", baseline: str = "scratch: {}"
) -> int:
    file = folder / "study.yaml"
    file.write_text(STUDY.format(student=student, space=space, baseline=baseline))
    return main(["validate", str(file)])


def test_layers_that_fit(tmp_path: Path) -> None:
    """A teacher that the student does not learn from is not asked for layers."""
    assert validated(tmp_path) == 0
    units = "student_units: [4, 2], teacher_units: [4, 1]"
    assert validated(tmp_path, student=f"{FITS}, {units}") == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            {"student": f"{FITS}, student_units: [5], teacher_units: [4]"},
            "6: student.student_units: student_units must be at most 4 for model 'wrn-10-2'",
        ),
        (
            {"student": f"{FITS}, student_units: [4], teacher_units: [5]"},
            "6: student.teacher_units: teacher_units must be at most 4 for model 'wrn-10-1'",
        ),
        (
            {"student": f"{FITS}, student_units: [4]"},
            "6: student.student_units: student_units must be as many as teacher_units, found 1",
        ),
        (
            {"student": "model: mlp-8, method: fitnet, student_units: [1], teacher_units: [1]"},
            "6: student.student_units: method 'fitnet': student_units names unit 1 of 'mlp-8', "
            "which has no maps (units with maps: none)",
        ),
        (
            {"student": "model: wrn-10-1, method: attention-transfer"},
            f"6: student.method: method 'attention-transfer': {NO_MAPS}",
        ),
        (
            {"student": f"{FITS.replace('fitnet', 'reviewkd')}, preprocessing: {{size: 24}}"},
            "6: student.method: method 'reviewkd': no unit of 'wrn-10-2' has maps of the size of "
            "one of 'wrn-10-1' (1: 24x24, 2: 24x24, 3: 12x12, 4: 6x6; 1: 8x8, ",
        ),
        (
            {"space": ", method: {choice: [kd, fitnet]}, model: {choice: [wrn-10-1, mlp-8]}"},
            f"7: search.space.method: method 'fitnet': {NO_MAPS}",
        ),
        (
            {"baseline": "flat: {method: fitnet, teachers: [flat]}"},
            f"8: confirm.baselines.flat.method: method 'fitnet': {NO_MAPS}",
        ),
    ],
)
def test_layers_that_cannot_be_compared(
    words: dict[str, str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert validated(tmp_path, **words) == 2
    assert message in capsys.readouterr().err


def test_what_only_follows_from_a_wrong_unit_is_not_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    units = "student_units: [0], teacher_units: [1]"
    assert validated(tmp_path, student=f"{FITS}, {units}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("6: student.student_units.0: found 0, must be at least 1")
