"""Reading the text: safe, with lines, and every unreadable file refused in one line."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from distill_ray.errors import RequestError
from distill_ray.study import StudyDefinition, load_study
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
    ("text", "value"),
    [
        ("010", 10),
        ("-007", -7),
        ("0o17", 15),
        ("0x1F", 31),
        ("1.", 1.0),
        ("08.5", 8.5),
        (".inf", float("inf")),
        ("1:30", "1:30"),
        ("1:30:00", "1:30:00"),
        ("190:20:30.15", "190:20:30.15"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("0o8", "0o8"),
        ("+", "+"),
    ],
)
def test_numbers_are_those_of_yaml_1_2(text: str, value: object) -> None:
    found = parse_document(f"a: {text}", "x.yaml").values["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1:30:00", "found '1:30:00', must be a whole number, at least 0, at most 2147483647"),
        ("9" * 400, "found '99999"),
        ("-" + "9" * 5000, "found '-9999"),
        ("0x" + "f" * 5000, "found '0xfff"),
        ("0o" + "7" * 80000, "found '0o777"),
        (str(2**63), "found '9223372036854775808', which is too large a number"),
        ("1e999", "found inf, must be a whole number"),
        ("!!int 1_0", "found '1_0', must be a number or true, false or null"),
        ("!!float 1:30", "found '1:30', must be a number or true, false or null"),
    ],
)
def test_numbers_that_are_none_or_too_large(
    refusal: Refusal, smallest: str, value: str, message: str
) -> None:
    (line,) = refusal(f"{smallest}seed: {value}\n")
    assert line.startswith(f"study.yaml:4: seed: {message}")
    assert len(line) < 200
    (line,) = refusal(smallest, f"seed={value}")
    assert line.startswith(f"--set: seed: {message}")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (r'"\UFFFFFFFF"', "not valid YAML: there is no character with that number"),
        (r'"\U00110000"', "not valid YAML: there is no character with that number"),
        (r'"\uD800"', r"data.source: found '\ud800', which holds a control character"),
        (r'"a\0b"', r"data.source: found 'a\x00b', which holds a control character"),
        (r'"\e[31m"', r"data.source: found '\x1b[31m', which holds a control character"),
        ('{"a\\0": 1}', r"data.source: found 'a\x00' as the name of a field: a control character"),
    ],
)
def test_characters_that_are_no_text(
    refusal: Refusal, smallest: str, value: str, message: str
) -> None:
    assert f"study.yaml:4: {message}" in refusal(f"{smallest}data: {{source: {value}}}\n")


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_deep_nesting_takes_no_time(refusal: Refusal, smallest: str, opening: str) -> None:
    began = time.process_time()
    for line in (*refusal("a: " + opening * 20_000), *refusal(smallest, f"a={opening * 20_000}")):
        assert len(line) < 200
    assert time.process_time() - began < 5


def test_of_many_problems_the_first_are_listed_and_the_others_counted(
    refusal: Refusal, smallest: str
) -> None:
    began = time.process_time()
    lines = refusal(smallest + "".join(f"tempratur{number}: 1\n" for number in range(5000)))
    assert lines[0].startswith("study.yaml:4: tempratur0: unknown field")
    assert lines[19].startswith("study.yaml:23: ")
    assert lines[20:] == ["study.yaml: and 4980 more problems"]
    assert sum(map(len, lines)) < 10_000
    assert time.process_time() - began < 10


def test_choices_are_bounded(refusal: Refusal, smallest: str) -> None:
    choices = ", ".join(f"0.{number:05d}" for number in range(1, 10_001))
    assert refusal(f"{smallest}search: {{space: {{lr: {{choice: [{choices}]}}}}}}\n") == [
        "study.yaml:4: search.space.lr.choice: found 10000 values, must be at most 1000"
    ]


@pytest.mark.parametrize(
    "address",
    [
        "s3//KEY:SECRET@b/x",
        "s3:/KEY:SECRET@b/x",
        "s3://KEY:SECRET@b/x",
        "s3://b/x?secret_key=SECRET",
        "ftp://KEY:SECRET@b/x",
    ],
)
@pytest.mark.parametrize("field", ["data.source", "data", "name", "search.warm_start", "x"])
def test_credentials_are_refused_and_never_printed(
    refusal: Refusal, smallest: str, address: str, field: str
) -> None:
    for text in (address, f"[x, {address}]", f"x@{address}", f"{address}{'x' * 600}"):
        lines = refusal(smallest, f"{field}={text}")
        assert lines
        assert not any("SECRET" in line or "KEY" in line for line in lines)
    assert not any(
        "SECRET" in line for line in refusal(smallest, f"search.warm_start=[a@{address}]")
    )
    assert not any("SECRET" in line for line in refusal(smallest, address))
    assert not any("SECRET" in line for line in refusal(smallest, f"{address}=3"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            "study.yaml: the study file is empty; studies/quickstart.yaml shows what one looks "
            "like",
        ),
        (
            "# only a comment\n",
            "study.yaml: the study file is empty; studies/quickstart.yaml shows what one looks "
            "like",
        ),
        (
            "\n- a\n- b\n",
            'study.yaml:2: a study file is a mapping of sections (name, data, ...), found ["a", '
            '"b"]',
        ),
        (
            "just text",
            "study.yaml:1: a study file is a mapping of sections (name, data, ...), found 'just "
            "text'",
        ),
        (
            "a: 1\nb: [1, 2\nc: 3\n",
            "study.yaml:3: not valid YAML: while parsing a flow sequence, expected ',' or ']', "
            "but got ':'",
        ),
        (
            "a: 1\n\tb: 2\n",
            "study.yaml:2: not valid YAML: while scanning for the next token, found character "
            "'\\t' that cannot start any token",
        ),
        ("a: *missing\n", "study.yaml:1: not valid YAML: found undefined alias 'missing'"),
        (
            "a: 1\n---\nb: 2\n",
            "study.yaml:2: not valid YAML: expected a single document in the stream, but found "
            "another document",
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


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "s3//KEY:SECRET@b/x", "s3:/KEY:SECRET@b/x"])
def test_paths_that_no_file_can_have(path: str) -> None:
    with pytest.raises(RequestError, match="cannot read the study file: ") as caught:
        load_study(path)
    assert "SECRET" not in str(caught.value) and "\0" not in str(caught.value)


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


def test_dates_are_text(load: Callable[..., StudyDefinition], smallest: str) -> None:
    assert load(smallest.replace("small", "2025-06-01")).name == "2025-06-01"


def test_a_field_given_twice_and_names_that_are_no_text(refusal: Refusal, smallest: str) -> None:
    text = smallest + "seed: 1\nseed: 2\nconfirm:\n  1: 2\n  yes: 3\n"
    assert refusal(text) == [
        "study.yaml:4: seed: given twice, on lines 4 and 5",
        "study.yaml:6: confirm: found 1 as the name of a field, must be text (in quotes, perhaps)",
        "study.yaml:6: confirm: found yes as the name of a field, must be text (in quotes, "
        "perhaps)",
    ]


def test_anchors_and_merges_work(load: Callable[..., StudyDefinition]) -> None:
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
