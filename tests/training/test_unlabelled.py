"""Images without labels: terms that need none learn from them, nothing else does."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from distill_ray.augmentation.augmentation import Part
from distill_ray.data.pixels import JoinedPixels, middle
from distill_ray.data.unlabelled import open_unlabelled
from distill_ray.errors import RequestError
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.run_job import run_job
from distill_ray.execution.sharing import Sharing
from distill_ray.job import Data
from distill_ray.methods import METHODS
from distill_ray.methods.losses import cross_entropy
from distill_ray.records import find_job
from distill_ray.resolve import confirm_runs, data_of, teacher_runs, trial_run
from distill_ray.stages.screen import screenings
from distill_ray.store import Store
from distill_ray.study import load_study
from distill_ray.training import load_dataset, train
from distill_ray.training.teachers import LiveTeachers

STUDY = """
name: unlabelled
data: {{source: {root}/labelled, validation: 4, {data}}}
teachers: {{model: mlp-4, members: 1, epochs: 1, batch_size: 4}}
student: {{model: mlp-4, method: {method}, epochs: 2, batch_size: 8, augmentation: flip}}
search: {{trials: 1, space: {{lr: {{log: [0.01, 0.1]}}}}}}
screen: {{candidates: [flip], batch_size: 1}}
confirm: {{seeds: 1, baselines: [scratch]}}
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve training and two test images with labels, ten without in folders that mean nothing."""
    monkeypatch.setenv("DISTILL_RAY_CACHE", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)

    def write(path: str) -> None:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (6, 6, 3), np.uint8)
        Image.fromarray(pixels).save(file)

    for number in range(6):
        write(f"labelled/train/cat/{number}.png")
        write(f"labelled/train/dog/{number}.png")
    write("labelled/test/cat/0.png")
    write("labelled/test/dog/0.png")
    for number in range(10):
        write(f"more/{'ab'[number % 2]}/{number}.png")
    (tmp_path / "more" / "notes.txt").write_text("no image")
    return tmp_path


def study(root: Path, data: str, method: str = "kd") -> Any:
    file = root / "study.yaml"
    file.write_text(STUDY.format(root=root, data=data.format(root=root), method=method))
    return load_study(str(file))


def test_only_methods_that_take_them_get_them(root: Path) -> None:
    loaded = study(root, "unlabelled: {root}/more, unlabelled_ratio: 0.5")
    data, plain = data_of(loaded), data_of(study(root, "seed: 0"))
    assert data.unlabelled is not None
    assert data.unlabelled.images == 4
    assert Data.from_dict(asdict(data)) == data
    taught = [run.job.id for run in teacher_runs(loaded, data)]
    assert taught == [run.job.id for run in teacher_runs(loaded, plain)]
    assert screenings(loaded, data, taught) == screenings(loaded, plain, taught)
    trials = [trial_run(loaded, each, taught, 0, {"lr": 0.05}).job for each in (data, plain)]
    assert trials[0].id != trials[1].id
    (scratch,) = confirm_runs(loaded, data, taught, [])
    assert scratch.job.data.unlabelled is None


def test_a_student_learns_from_them_and_its_labels_are_only_those_that_are_there(
    root: Path,
) -> None:
    loaded = study(root, "unlabelled: {root}/more")
    data = data_of(loaded)
    dataset = load_dataset(data)
    assert dataset.labels[dataset.train].tolist() == [0] * 4 + [1] * 4 + [-1] * 10
    assert (dataset.labels[dataset.validation] >= 0).all()
    shown = {image.tobytes() for image in dataset.images[dataset.train[8:]]}
    files = (root / "more").rglob("*.png")
    assert shown == {np.asarray(Image.open(file)).tobytes() for file in files}
    (teacher,) = teacher_runs(loaded, data)
    job = trial_run(loaded, data, [teacher.job.id], 0, {"lr": 0.05}).job
    network = _trained(teacher.job, load_dataset(data.labelled))
    teachers = LiveTeachers([network], torch.device("cpu"), "fp32")
    records = list(train(job, dataset, teachers))
    alone = list(train(job, load_dataset(data.labelled), teachers))
    for record in records:
        assert np.isfinite(record["train/loss"])
    assert records[-1]["val/nll"] != alone[-1]["val/nll"]


def test_stored_teacher_logits_cover_them(root: Path) -> None:
    loaded = study(root, "unlabelled: {root}/more, unlabelled_ratio: 0.5")
    data = data_of(loaded)
    (teacher,) = teacher_runs(loaded, data)
    trial = trial_run(loaded, data, [teacher.job.id], 0, {"lr": 0.05})
    predicted = []
    for mode in ("live", "cached"):
        store = Store.open(str(root / mode))
        here = WorkerResources(sharing=Sharing(mode=mode, exact=True))
        for job in (teacher.job, trial.job):
            for _ in run_job(store, job, here, read_test=True):
                pass
        record = find_job(store, trial.job.id)
        assert record is not None
        predictions = record.predictions("test")
        assert predictions is not None
        predicted.append(predictions.log_probabilities)
    assert np.allclose(*predicted, atol=1e-5)
    assert predicted[0].shape == (2, 2)


def _trained(job: Any, dataset: Any) -> torch.nn.Module:
    from distill_ray.training import load_network

    training = train(job, dataset)
    while True:
        try:
            next(training)
        except StopIteration as end:
            return load_network(job, end.value.weights, dataset)


def test_the_cross_entropy_is_that_of_the_images_with_labels() -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor([0, -1, 2, -1, -1, 1])
    images = torch.zeros(6, 1, 1, 1)
    known = labels >= 0
    for smoothing in (0.0, 0.1):
        part = Part(images, labels, label_smoothing=smoothing)
        some = Part(images[known], labels[known], label_smoothing=smoothing)
        assert torch.allclose(cross_entropy(logits, part), cross_entropy(logits[known], some))
        whole = replace(part, partner_labels=labels, label_weight=torch.full((6,), 0.3))
        assert torch.allclose(cross_entropy(logits, whole), cross_entropy(logits[known], some))
    partner = torch.tensor([1, 1, -1, -1, -1, 1])  # mixed with one that has a label, or has none
    weight = torch.full((6,), 0.25)
    mixed = Part(images, labels, partner_labels=partner, label_weight=weight)
    log_p = logits.log_softmax(-1)
    terms = [
        (0.25, -log_p[0, 0]),
        (0.75, -log_p[0, 1]),
        (0.75, -log_p[1, 1]),
        (0.25, -log_p[2, 2]),
        (1.0, -log_p[5, 1]),
    ]
    expected = sum(share * term for share, term in terms) / sum(share for share, _ in terms)
    assert torch.allclose(cross_entropy(logits, mixed), torch.as_tensor(expected))
    none = cross_entropy(logits, Part(images, torch.full((6,), -1)))
    none.backward()
    assert none.item() == 0
    assert logits.grad is not None and not logits.grad.any()


@pytest.mark.parametrize(
    ("data", "method", "message"),
    [
        ("unlabelled: {root}/more", "dkd", "no method of this study learns from images without"),
        ("unlabelled: {root}/none", "kd", "data.unlabelled: there is no folder"),
        ("unlabelled: {root}/cache", "kd", "holds no image"),
        ("unlabelled_ratio: 2", "kd", "data.unlabelled_ratio: is for images without labels"),
        ("train: 0", "kd", "data.train: found 0, must be at least 1 where there is no data.unl"),
        ("train: 0, unlabelled: {root}/more", "kd", "and there are teachers to train"),
        ("train: 0, unlabelled: {root}/more", "kd", "baseline scratch learns from labels"),
    ],
)
def test_what_cannot_be(root: Path, data: str, method: str, message: str) -> None:
    (root / "cache").mkdir(exist_ok=True)
    with pytest.raises(RequestError, match=message):
        data_of(study(root, data, method))


def test_a_student_may_learn_from_no_label_at_all(root: Path) -> None:
    loaded = study(root, "unlabelled: {root}/more, train: 8")
    data = data_of(loaded)
    (teacher,) = teacher_runs(loaded, data)
    network = _trained(teacher.job, load_dataset(data.labelled))
    weights = root / "mlp-4.pt"
    torch.save(network.state_dict(), weights)
    file = root / "given.yaml"
    text = STUDY.format(root=root, data=f"unlabelled: {root}/more, train: 0", method="kd")
    given = text.replace("members: 1, epochs: 1, batch_size: 4", f"weights: {weights}")
    given = given.replace("screen: {candidates: [flip], batch_size: 1}\n", "")
    file.write_text(given.replace("[scratch]", "[default-kd]"))
    alone = data_of(load_study(str(file)))
    dataset = load_dataset(alone)
    assert dataset.labels[dataset.train].tolist() == [-1] * 10
    assert len(dataset.validation) == 4
    assert (dataset.labels[dataset.validation] >= 0).all()
    job = trial_run(load_study(str(file)), alone, [teacher.job.id], 0, {"lr": 0.05}).job
    records = list(train(job, dataset, LiveTeachers([network], torch.device("cpu"), "fp32")))
    assert np.isfinite([record["train/loss"] for record in records]).all()


def test_images_of_another_size_are_refused(root: Path) -> None:
    for file in (root / "more").rglob("*.png"):
        Image.new("RGB", (9, 9)).save(file)
    with pytest.raises(RequestError, match=r"data.unlabelled: images are \(9, 9, 3\)"):
        load_dataset(data_of(study(root, "unlabelled: {root}/more")))
    assert load_dataset(data_of(study(root, "unlabelled: {root}/more, size: 6")))


def test_what_is_left_out_is_said(root: Path) -> None:
    (remark,) = open_unlabelled(str(root / "more")).remarks
    assert remark == "left out 1 files without labels: not images by their ending (.txt)"


def test_joined_images_are_those_of_both() -> None:
    first = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    second = np.arange(3 * 4 * 4, dtype=np.uint8).reshape(3, 4, 4, 1)
    whole = np.concatenate([first, second.repeat(3, axis=3)])
    joined = JoinedPixels(first, second)
    assert joined.shape == whole.shape
    rows = np.array([4, 0, 2, 0])
    assert (joined[rows] == whole[rows]).all()
    assert (joined[1:4] == whole[1:4]).all()
    assert (middle(joined, 2)[rows] == whole[rows][:, 1:3, 1:3]).all()


def test_some_methods_take_them_and_say_so() -> None:
    able = {name for name, method in METHODS.items() if method().takes_unlabelled}
    assert {"kd", "dist", "endd", "proxy-endd", "rkd", "fitnet"} <= able
    assert not able & {"supervised", "dkd", "nkd", "crd"}
    assert not METHODS["kd"](combine="confident").takes_unlabelled
