"""What a look at every image of a data set has found: in sentences, and as JSON values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from distill_ray.data.checking import EXAMPLES, Copies, DataCheck, SplitLook
from distill_ray.data.decoding import GREY

UNBALANCED = 10
"""How many times as many images as the smallest class the largest may have."""

FEW = 10
"""Images of a class below which a validation split can hardly be cut."""


@dataclass(frozen=True)
class DataFinding:
    """Something to mend (`error`: a run would fail, or its numbers would be wrong) or to know."""

    severity: Literal["error", "warning"]
    text: str
    examples: tuple[str, ...] = ()


def findings(check: DataCheck) -> list[DataFinding]:
    """What is wrong with the data set, the worst first."""
    all_findings = [*_broken(check), *_copied(check), *_classes(check), *_sizes(check)]
    all_findings += [DataFinding("warning", remark) for remark in check.remarks]
    return sorted(all_findings, key=lambda finding: finding.severity)


def to_json(check: DataCheck) -> dict[str, Any]:
    """The check as JSON values."""
    names = check.class_names
    splits = {}
    for split, look in check.looks.items():
        splits[split] = {
            "rows": look.rows,
            "sound": len(look.numbers),
            "broken": look.broken,
            "not_looked_at": look.unread,
            "classes": dict(zip(names, look.class_counts(len(names)), strict=True)),
            "sizes": look.sizes(),
            "modes": dict(look.modes),
            "formats": dict(look.formats),
            "turned_by_exif": look.turned,
            "repeated": check.repeated[split],
            "repeated_with_another_class": check.conflicts[split].exact,
        }
    return {
        "location": check.location,
        "label": check.label,
        "splits": splits,
        "leaks": [
            {"splits": list(splits), "exact": copies.exact, "near": copies.near}
            for splits, copies in check.leaks.items()
        ],
        "findings": [vars(finding) for finding in findings(check)],
    }


def _broken(check: DataCheck) -> Iterator[DataFinding]:
    for split, look in check.looks.items():
        if look.broken:
            text = (
                f"{look.broken:,} of {look.rows:,} images of {split} cannot be used; replace or "
                "remove them"
            )
            if look.unread:
                text += f" ({look.unread:,} more were not looked at after that)"
            yield DataFinding("error", text, tuple(look.broken_examples))


def _copied(check: DataCheck) -> Iterator[DataFinding]:
    for (first, second), copies in check.leaks.items():
        if not copies.exact and not copies.near:
            continue
        least = "" if copies.verified_all else "at least "
        kinds = [f"{copies.exact:,} byte for byte"] if copies.exact else []
        kinds += [f"{least}{copies.near:,} as near duplicates"] if copies.near else []
        text = (
            f"a leak: of {len(check.looks[second].numbers):,} images of {second}, {first} has "
            f"{' and '.join(kinds)}; what is measured on them is not to be trusted, remove them "
            "from one of the two"
        )
        yield DataFinding("error" if copies.exact else "warning", text, _pairs(copies))
    for split, repeated in check.repeated.items():
        conflicts = check.conflicts[split]
        if conflicts.exact:
            text = f"{conflicts.exact:,} images of {split} are there under another class too"
            yield DataFinding("warning", text, _pairs(conflicts))
        if repeated > conflicts.exact:
            text = f"{repeated - conflicts.exact:,} images of {split} are there again"
            if split == "train":
                text += "; a validation split that is cut from it may share them with the rest"
            yield DataFinding("warning", text)


def _pairs(copies: Copies) -> tuple[str, ...]:
    return tuple(f"{copy} is {original}" for copy, original in copies.examples)


def _classes(check: DataCheck) -> Iterator[DataFinding]:
    names = check.class_names
    if not names:
        return
    if len(names) == 1:
        yield DataFinding("error", "there is only one class, so there is nothing to learn")
    for split, look in check.looks.items():
        counts = look.class_counts(len(names))
        if not any(counts):
            continue
        missing = [name for name, count in zip(names, counts, strict=True) if not count]
        if missing:
            examples = ", ".join(map(repr, missing[:EXAMPLES]))
            more = ", ..." if len(missing) > EXAMPLES else ""
            yield DataFinding(
                "warning",
                f"{split} has no image of {len(missing):,} of the {len(names):,} classes: "
                f"{examples}{more}",
            )
        present = [(count, name) for name, count in zip(names, counts, strict=True) if count]
        (fewest, rare), (most, common) = min(present), max(present)
        if most >= UNBALANCED * fewest:
            yield DataFinding(
                "warning",
                f"{split} is unbalanced: {most:,} images of {common!r}, {fewest:,} of {rare!r}; "
                "accuracy says little about rare classes",
            )
        few = sum(count < FEW for count, _ in present)
        if few and split == "train":
            yield DataFinding(
                "warning",
                f"{few:,} {'class has' if few == 1 else 'classes have'} fewer than {FEW} images to "
                f"train on, the fewest {fewest} ({rare!r})",
            )


def _sizes(check: DataCheck) -> Iterator[DataFinding]:
    looks = [look for look in check.looks.values() if look.widths]
    sizes = [look.sizes() for look in looks]
    different = {tuple(size[name]) for size in sizes for name in ("smallest", "largest")}
    if len(different) > 1 or any(size["different"] > 1 for size in sizes):
        sides = sorted(min(size["median"]) for size in sizes)
        yield DataFinding(
            "warning",
            "images differ in size, so a study must set data.size, the side of the squares that "
            f"are made of them; half of them have a shorter side of about {sides[0]} or more",
        )
    grey = [sum(look.modes[mode] for mode in GREY) for look in looks]
    if any(grey) and sum(grey) < sum(len(look.widths) for look in looks):
        yield DataFinding("warning", _mixed_colours(looks, sum(grey)))
    turned = sum(look.turned for look in looks)
    if turned:
        yield DataFinding(
            "warning", f"{turned:,} images are turned upright, as their EXIF data say"
        )


def _mixed_colours(looks: list[SplitLook], grey: int) -> str:
    only_grey = [look.part for look in looks if set(look.modes) <= GREY]
    if only_grey and len(only_grey) < len(looks):
        return f"{' and '.join(only_grey)} is grey and the rest is not; make all alike"
    return f"{grey:,} images are grey, and the others have colours; all become RGB"
