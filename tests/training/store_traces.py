"""Writes the stored loss traces that `test_loop.py` compares with. Run it only when a change of
results is meant:

uv run python tests/training/store_traces.py
"""

import importlib.util
import json
import sys
from pathlib import Path

from distill_ray.methods import METHODS

HERE = Path(__file__).parent


def _module(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    shared, loop = _module(HERE.parent / "conftest.py"), _module(HERE / "test_loop.py")
    dataset, data = shared.small_dataset.__wrapped__(), shared.small_data.__wrapped__()
    for method in METHODS:
        records, _ = loop.finish(loop.tiny_job(data, method, precision="fp32"), dataset)
        kept = [
            {name: value for name, value in record.items() if name.startswith(("train/", "lr"))}
            for record in records
        ]
        (HERE / "traces" / f"{method}.json").write_text(json.dumps(kept, indent=1) + "\n")
