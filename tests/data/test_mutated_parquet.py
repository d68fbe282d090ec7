from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill_ray.data import load_images, open_source
from distill_ray.errors import RequestError

LIKE_ANYWHERE = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@settings(LIKE_ANYWHERE, max_examples=100)
@given(data=st.data())
def test_whatever_the_bytes_it_is_one_clear_line(
    tmp_path: Path, write_shard: Callable[..., Any], pictures: Callable[..., Any], data: Any
) -> None:
    check_mutated(tmp_path, write_shard, pictures, data)


@pytest.mark.slow
@settings(LIKE_ANYWHERE, max_examples=800)
@given(data=st.data())
def test_thousands_of_mutated_files_are_one_clear_line_each(
    tmp_path: Path, write_shard: Callable[..., Any], pictures: Callable[..., Any], data: Any
) -> None:
    check_mutated(tmp_path, write_shard, pictures, data)


def check_mutated(
    tmp_path: Path, write_shard: Callable[..., Any], pictures: Callable[..., Any], data: Any
) -> Any:
    template = tmp_path / "template.parquet"
    if not template.exists():
        write_shard(template, pictures(4), label=[0, 1, 1, 0], other=[3, 4, 5, 6], row_group_size=2)
    content = bytearray(template.read_bytes())
    # Most of the places are in the footer, where the structure is; hypothesis would rarely find
    # them in a longer file.
    footer = len(content) - int.from_bytes(content[-8:-4], "little") - 8
    for _ in range(data.draw(st.integers(1, 4), "changes")):
        place = data.draw(
            st.one_of(st.integers(footer, len(content) - 1), st.integers(0, len(content) - 1)),
            "place",
        )
        content[place] = data.draw(
            st.one_of(st.integers(0, 255), st.just(content[place] ^ 1)), "byte"
        )
    if data.draw(st.integers(0, 4), "cut") == 0:
        del content[data.draw(st.integers(0, len(content)), "end") :]
    folder = tmp_path / "mutated"
    folder.mkdir(exist_ok=True)
    (folder / "train.parquet").write_bytes(content)
    images, message = None, ""
    try:
        source = open_source(str(folder))
        images = load_images(source, "train")
    except RequestError as error:
        message = str(error)
    if images is None:
        assert "train.parquet" in message or folder.name in message
        assert "\n" not in message
    else:
        assert images.images.shape[0] == len(images.labels) == source.rows("train")
        assert images.labels.max() < images.num_classes
