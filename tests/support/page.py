"""Prints the report page of pickled results: `python page.py FILE`."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from distill_ray.report.page import Report

print(Report.of(pickle.loads(Path(sys.argv[1]).read_bytes())).html(), end="")
