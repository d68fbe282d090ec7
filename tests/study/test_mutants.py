"""Ten thousand damaged study files and options: each is a study or is refused, in time, in few
words and without a secret.

    uv run pytest --no-cov -n0 -m slow tests/study/test_mutants.py

`DISTILL_RAY_MUTANTS` sets their number, `DISTILL_RAY_MUTANT_SEED` where they begin.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from distill_ray.cli import main

ROOT = Path(__file__).parents[2]
STUDIES = [path.read_text("utf-8") for path in sorted((ROOT / "studies").glob("*.yaml"))]

SECRETS = [
    "s3//KEY:SECRET@b/x",
    "s3:/KEY:SECRET@b/x",
    "s3://KEY:SECRET@b/x",
    "KEY:SECRET@b/x",
    "postgresql+psycopg://me:SECRET@db/x?password=SECRET",
    "s3://b/x?secret_key=SECRET",
]
VALUES = [
    *(
        "",
        "~",
        "null",
        "true",
        "on",
        "0",
        "-1",
        "010",
        "1:30:00",
        "1e999",
        ".nan",
        "0x" + "f" * 300,
    ),
    *("9" * 400, "9" * 5000, "[]", "{}", "[[[[]]]]", "[" * 300, "{a: " * 60, "&a [*a]", "*a", "<<"),
    *(r'"\UFFFFFFFF"', r'"\uD800"', r'"\0"', r'"\e[31m"', "!!python/name:os.system x", "!x y"),
    *("x" * 3000, "é", "\u202e", "\x85", "mlp-" + "9" * 30, "wrn-100000006-100", "..", "../../x"),
    *("{choice: [1, 2]}", "{log: [0, 1]}", "{int: [1, 99999999999]}", "{name: cutout, size: 1}"),
    *("kd", "crop-flip", "supervised", "hydra", "endd", "cutmix", "asha", "none", "val/nll", "2h"),
    *SECRETS,
]
TYPED = list("{}[]:,&*!|>'\"-?#%@ \n\t<=a1~\\\0\r")


def mutant(random: random.Random) -> str:
    """A study file with one to six changes: characters, values, lines, or parts of another file."""
    text = random.choice(STUDIES)
    for _ in range(random.randint(1, 6)):
        lines = text.splitlines(keepends=True) or [""]
        place, line = random.randrange(len(text) + 1), random.randrange(len(lines))
        match random.randrange(7):
            case 0:
                text = text[:place] + random.choice(TYPED) + text[place:]
            case 1:
                text = text[:place] + text[place + random.randint(1, 20) :]
            case 2 | 3:
                name = lines[line].partition(":")[0].rstrip("\n")
                lines[line] = f"{name}: {random.choice(VALUES)}\n"
                text = "".join(lines)
            case 4:
                lines.insert(random.randrange(len(lines)), lines[line])
                text = "".join(lines)
            case 5:
                del lines[line]
                text = "".join(lines)
            case 6:
                other = random.choice(STUDIES)
                text = text[:place] + other[random.randrange(len(other)) :][:300] + text[place:]
    return text


def option(random: random.Random, fields: list[str]) -> str:
    """An option `--set`, sometimes without its parts."""
    parts = random.choice(fields).split(".")
    if random.random() < 0.3:
        parts.insert(random.randrange(len(parts) + 1), random.choice([*fields, *VALUES]))
    equals = random.choice(["=", "=", "=", "=", "==", ""])
    return f"{'.'.join(parts)}{equals}{random.choice(VALUES)}".replace("\0", "")


FIELDS = [
    *("name", "seed", "data", "data.source", "data.validation", "teachers", "teachers.model"),
    *("teachers.0.members", "teachers.seeds", "student", "student.model", "student.method"),
    *("student.augmentation", "student.temperature", "student.epochs", "student.milestones"),
    *("search", "search.trials", "search.space", "search.space.lr", "search.objectives"),
    *("search.space.augmentation.padding", "search.scheduler", "search.time_limit"),
    *("search.warm_start", "search.try_first", "confirm", "confirm.baselines", "published.rows"),
    *("screen", "screen.candidates", "resources", "resources.teacher_logits.top_k", "x", "a.b.c"),
]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_mutants_are_studies_or_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = int(os.environ.get("DISTILL_RAY_MUTANT_SEED", "0"))
    for seed in range(first, first + int(os.environ.get("DISTILL_RAY_MUTANTS", "10000"))):
        draw = random.Random(seed)
        path = tmp_path / "study.yaml"
        path.write_text(mutant(draw), encoding="utf-8", errors="surrogatepass")
        options = [option(draw, FIELDS) for _ in range(draw.choice([0, 0, 1, 3]))]
        arguments = [argument for text in options for argument in ("--set", text)]
        check(["validate", str(path), *arguments], seed, capfd)
    assert [file.name for file in tmp_path.iterdir()] == ["study.yaml"]


def check(command: list[str], seed: int, capfd: pytest.CaptureFixture[str]) -> None:
    """Run a command and judge how it ends and what it prints."""
    began = time.process_time()
    code = main(command)
    output = "".join(capfd.readouterr())
    assert code in (0, 1, 2), f"mutant {seed}: exit {code}"
    for word in ("Traceback", "unexpectedly", "SECRET"):
        assert word not in output, f"mutant {seed}: {word} in {output[:2000]}"
    assert len(output) < 20_000, f"mutant {seed} prints {len(output)} characters"
    assert time.process_time() - began < 60, f"mutant {seed} takes too long"
