"""Writes the stored loss traces that `test_loop.py` compares with. Run it only when a change of
results is meant:

uv run python tests/training/store_traces.py
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from distill_ray.methods import METHODS
from support.small import DATA, finish, small_dataset, tiny_job

if __name__ == "__main__":
    for method in METHODS:
        records, _ = finish(tiny_job(DATA, method, precision="fp32"), small_dataset())
        kept = [
            {name: value for name, value in record.items() if name.startswith(("train/", "lr"))}
            for record in records
        ]
        trace = Path(__file__).parent / "traces" / f"{method}.json"
        trace.write_text(json.dumps(kept, indent=1) + "\n")
