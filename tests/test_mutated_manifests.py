"""Whatever lies where a manifest should be: it is the record that was written, or it is set aside
with nothing else said.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill_ray.errors import DistillRayError
from distill_ray.job import Data, Job, Recipe
from distill_ray.records import Predictions, find_job, save_job
from distill_ray.store import MANIFEST, Store, _seal

LIKE_ANYWHERE = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(["", "..", "/etc/passwd", "jobs", "a\0b", 10**400, -1, "\ud800"]),
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=5,
)


@pytest.fixture
def job(small_data: Data) -> Job:
    return Job(recipe=Recipe(model="wrn-10-1"), data=small_data, seed=0)


@pytest.fixture
def written(tmp_path: Path, job: Job) -> tuple[Store, bytes]:
    """A store with one finished job, and the content of its manifest."""
    store = Store.open(str(tmp_path / "store"))
    epochs = [{"epoch": 1.0, "time": 1e9, "seconds": 0.5, "val/nll": 2.25, "train/loss": 2.5}]
    said = Predictions(np.full((2, 3), -1.0, np.float32), np.array([0, 2]))
    weights = {"weight": torch.zeros(3)}
    save_job(
        store, job, weights=weights, epochs=epochs, kept_epoch=1, predictions=said, parameters=3
    )
    content = store.read(f"jobs/{job.id}/{MANIFEST}")
    assert content is not None
    return store, content


def seen(store: Store, job: Job) -> dict[str, Any] | None:
    """All that is read of a job, or None where there is no such record; a message to the user is
    fine, anything else is not.
    """
    try:
        found = find_job(store, job.id)
        if found is None:
            return None
        said = {
            "metrics": found.metrics,
            "parameters": found.parameters,
            "seconds": found.seconds,
            "epochs": found.epochs(),
        }
        assert set(found.weights()) == {"weight"}
        assert found.predictions("validation") is not None and not found.has_read_test
    except DistillRayError as error:
        assert str(error) and len(str(error)) < 1000
        return None
    finally:
        for name in store.names(f"jobs/{job.id}"):
            if ".damaged-" in name:
                store.delete(f"jobs/{job.id}/{name}")
    return said


@settings(LIKE_ANYWHERE, max_examples=200)
@given(data=st.data())
def test_changed_bytes_are_noticed(
    written: tuple[Store, bytes], job: Job, data: st.DataObject
) -> None:
    store, content = written
    path = f"jobs/{job.id}/{MANIFEST}"
    store.write(path, content)
    expected = seen(store, job)
    assert expected is not None
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3), "changes")):
        place = data.draw(st.integers(0, len(changed) - 1), "place")
        changed[place] = data.draw(
            st.one_of(st.integers(0, 255), st.just(changed[place] ^ 1)), "byte"
        )
    if data.draw(st.integers(0, 5), "cut") == 0:
        del changed[data.draw(st.integers(0, len(changed)), "end") :]
    store.write(path, bytes(changed))
    assert seen(store, job) in (None, expected)
    store.write(path, content)
    assert seen(store, job) == expected


@settings(LIKE_ANYWHERE, max_examples=200)
@given(data=st.data())
def test_values_of_any_kind_do_no_harm(
    written: tuple[Store, bytes], job: Job, data: st.DataObject
) -> None:
    """As another version may write it, with a checksum that is right."""
    store, content = written
    manifest = json.loads(content)
    del manifest["sha256"]
    for _ in range(data.draw(st.integers(1, 3), "changes")):
        paths = [path for path in places(manifest) if path]
        if not paths:
            break
        *above, last = data.draw(st.sampled_from(paths), "place")
        target: Any = manifest
        for key in above:
            target = target[key]
        if data.draw(st.booleans(), "remove"):
            del target[last]
        else:
            target[last] = copy.deepcopy(data.draw(VALUES, "value"))
    store.write(
        f"jobs/{job.id}/{MANIFEST}", json.dumps(manifest | {"sha256": _seal(manifest)}).encode()
    )
    seen(store, job)


@settings(LIKE_ANYWHERE, max_examples=150)
@given(
    content=st.binary(max_size=40)
    | VALUES.map(lambda value: json.dumps(value).encode())
    | st.just(b"[" * 100_000)
)
def test_any_content_is_no_record(written: tuple[Store, bytes], job: Job, content: bytes) -> None:
    store, _ = written
    store.write(f"jobs/{job.id}/{MANIFEST}", content)
    assert seen(store, job) is None


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything in `value`."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    return [path] + [place for key, inner in items for place in places(inner, (*path, key))]
