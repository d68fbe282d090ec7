"""Reading the text: safe, with lines, and every unreadable file refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from distill_ray.errors import RequestError
from distill_ray.study import Study, load_study
from distill_ray.study.document import parse_document

Refusal = Callable[..., list[str]]


def test_every_value_has_the_line_it_was_written_on() -> None:
    document = parse_document("a: 1\nb:\n  c: [1,\n     2]\n", "x.yaml")
    assert document.values == {"a": 1, "b": {"c": [1, 2]}}
    lines = {path: line for path, line in document.origins.items() if path}
    assert lines == {("a",): 1, ("b",): 2, ("b", "c"): 3, ("b", "c", 0): 3, ("b", "c", 1): 4}


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1.5e3", 1500.0), ("-2E+1", -20.0), (".5e1", 5.0), ("1e3x", "1e3x")],
)
def test_numbers_with_an_exponent_need_neither_dot_nor_sign(text: str, value: object) -> None:
    found = parse_document(f"a: {text}", "x.yaml").values["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            "study.yaml: the study file is empty; studies/quickstart.yaml shows what one looks like",
        ),
        (
            "# only a comment\n",
            "study.yaml: the study file is empty; studies/quickstart.yaml shows what one looks like",
        ),
        (
            "\n- a\n- b\n",
            'study.yaml:2: a study file is a mapping of sections (name, data, ...), found ["a", "b"]',
        ),
        (
            "just text",
            "study.yaml:1: a study file is a mapping of sections (name, data, ...), found 'just text'",
        ),
        (
            "a: 1\nb: [1, 2\nc: 3\n",
            "study.yaml:3: not valid YAML: while parsing a flow sequence, expected ',' or ']', but got ':'",
        ),
        (
            "a: 1\n\tb: 2\n",
            "study.yaml:2: not valid YAML: while scanning for the next token, found character '\\t' that cannot start any token",
        ),
        ("a: *missing\n", "study.yaml:1: not valid YAML: found undefined alias 'missing'"),
        (
            "a: 1\n---\nb: 2\n",
            "study.yaml:2: not valid YAML: expected a single document in the stream, but found another document",
        ),
        ("a: 1\nb: x\x00y\n", "study.yaml:2: not text: it holds the control character '\\x00'"),
        (
            "a: &a [*a]\n",
            "study.yaml:1: a.0.0: is nested too deeply for a study file; are all anchors meant?",
        ),
        (
            "a: &a {<<: *a}\n",
            "study.yaml:1: a: is nested too deeply for a study file; are all anchors meant?",
        ),
    ],
)
def test_text_that_is_no_study_is_refused_in_one_line(
    refusal: Refusal, text: str, message: str
) -> None:
    assert refusal(text) == [message]


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_deep_nesting_is_refused(refusal: Refusal, opening: str) -> None:
    (line,) = refusal("a: " + opening * 500)
    assert line.startswith("study.yaml:1: ")


def test_aliases_cannot_grow_without_bound(refusal: Refusal) -> None:
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    laughs += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))
    (line,) = refusal(laughs)
    assert line.endswith("grows too large for a study file; are all anchors meant?")


def test_merges_cannot_grow_without_bound(refusal: Refusal) -> None:
    laughs = "a0: &a0 {x: 1, y: 2}\n" + "".join(
        f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 30)
    )
    (line,) = refusal(laughs)
    assert line.endswith("grows too large for a study file; are all anchors meant?")


def test_binary_missing_and_huge_files(tmp_path: Path) -> None:
    binary, huge = tmp_path / "weights.yaml", tmp_path / "huge.yaml"
    binary.write_bytes(b"name: x\n\xff\xfe\x00")
    huge.write_bytes(b"#" * 100_001)
    refused = {
        binary: ":2: not UTF-8 text (byte 0xff); is this a study file?",
        huge: ": larger than 100 kB; a study file is a page of text",
        tmp_path / "none.yaml": ": cannot read the study file: no such file or directory",
        tmp_path: ": cannot read the study file: is a directory",
    }
    for path, message in refused.items():
        with pytest.raises(RequestError) as caught:
            load_study(path)
        assert str(caught.value) == f"{path}{message}"


def test_a_byte_order_mark_and_crlf_are_fine(tmp_path: Path, smallest: str) -> None:
    path = tmp_path / "windows.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + smallest.replace("\n", "\r\n").encode())
    assert load_study(path).name == "small"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "!!python/object/apply:os.system ['true']",
            "name: tag !!python/object/apply:os.system is not allowed; write a plain value",
        ),
        ("!!binary aGVsbG8=", "name: tag !!binary is not allowed; write a plain value"),
        ("!secret x", "name: tag !secret is not allowed; write a plain value"),
        ("!!set {a, b}", "name: tag !!set is not allowed; write a plain value"),
        ("!!int many", "name: found 'many', must be a number or true, false or null"),
        ("!!bool perhaps", "name: found 'perhaps', must be a number or true, false or null"),
    ],
)
def test_tags_are_refused(refusal: Refusal, smallest: str, value: str, message: str) -> None:
    assert f"study.yaml:1: {message}" in refusal(smallest.replace("small", value))


def test_dates_are_text(load: Callable[..., Study], smallest: str) -> None:
    assert load(smallest.replace("small", "2025-06-01")).name == "2025-06-01"


def test_a_field_given_twice_and_names_that_are_no_text(refusal: Refusal, smallest: str) -> None:
    text = smallest + "seed: 1\nseed: 2\nconfirm:\n  1: 2\n  yes: 3\n"
    assert refusal(text) == [
        "study.yaml:4: seed: given twice, on lines 4 and 5",
        "study.yaml:6: confirm: found 1 as the name of a field, must be text (in quotes, perhaps)",
        "study.yaml:6: confirm: found yes as the name of a field, must be text (in quotes, perhaps)",
    ]


def test_anchors_and_merges_work(load: Callable[..., Study]) -> None:
    study = load(
        "name: x\n"
        "teachers:\n"
        "  - &first {model: wrn-10-1, epochs: 5, members: 2}\n"
        "  - {<<: *first, epochs: 7, lr: 0.2}\n"
        "student: {model: wrn-10-1}\n"
    )
    first, second = (group.recipe for group in study.teachers)
    assert (first.epochs, second.epochs, second.lr, second.model) == (5, 7, 0.2, "wrn-10-1")


def test_the_first_of_several_merged_mappings_wins() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {x: 2, z: 2}\nc: {y: 3, <<: [*a, *b]}\n"
    assert parse_document(text, "x.yaml").values["c"] == {"x": 1, "y": 3, "z": 2}


def test_a_merge_of_something_else_is_refused(refusal: Refusal, smallest: str) -> None:
    assert "study.yaml:4: data: << must name a mapping or a list of them" in refusal(
        smallest + "data: {<<: 3}\n"
    )
