"""What `bench` has measured of a study, kept in its store, so that `plan` need not judge by a few
steps of its own.
"""

from __future__ import annotations

import json
import posixpath
from dataclasses import fields
from typing import Any

from distill_ray.planning.bench import Bench, machine_name
from distill_ray.resolve import data_of
from distill_ray.store import Store
from distill_ray.study import Study


def keep_bench(store: Store, study: Study, bench: Bench) -> None:
    """Keep what was measured; it replaces what was there."""
    store.write(
        _path(study),
        json.dumps({"of": _identity(study), "bench": bench.to_dict()}, allow_nan=False).encode(),
    )


def kept_bench(store: Store, study: Study) -> Bench | None:
    """What was measured of this student and these teachers on a machine like this one, or None."""
    try:
        kept = json.loads(store.read(_path(study)) or b"{}")
        if kept.get("of") == _identity(study):
            return Bench(**{field.name: kept["bench"][field.name] for field in fields(Bench)})
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # another version wrote it
    return None


def _identity(study: Study) -> dict[str, Any]:
    content = study.to_dict()
    return {
        "machine": machine_name(),
        "threads": study.resources.cpus_per_worker,
        "student": content["student"],
        "teachers": content["teachers"],
        "data": data_of(study).digest,
    }


def _path(study: Study) -> str:
    return posixpath.join("studies", study.name, "bench.json")
