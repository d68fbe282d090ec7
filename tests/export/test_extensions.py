"""A champion that extensions helped to make is used where they are not installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PACKAGE = {
    "my_lab/__init__.py": "",
    "my_lab/dim.py": """
from dataclasses import dataclass
from distill_ray.augmentation import Augmentation, Part

@dataclass(frozen=True, kw_only=True)
class Dim(Augmentation):
    name = "dim"

    def parts(self, source):
        return (Part(source.images() * 0.5, source.labels()),)
""",
    "my_lab/plain.py": """
from dataclasses import dataclass
from distill_ray.methods import Supervised

@dataclass(frozen=True, kw_only=True)
class Plain(Supervised):
    name = "plain"
""",
    "my_lab/tiny.py": """
from distill_ray.models import ModelFamily

FAMILY = ModelFamily(
    pattern="tiny-w",
    expression=r"tiny-([1-9]\\d*)",
    examples=("tiny-4",),
    builder="my_lab.tiny:build",
    arguments=lambda width: {"width": int(width)},
    help="One convolution.",
)

def build(image_shape, num_classes, width):
    from torch import nn
    from distill_ray.models.network import Architecture

    layers = nn.Conv2d(image_shape[0], width, 3), nn.AdaptiveMaxPool2d(2), nn.Flatten()
    return Architecture(nn.Sequential(*layers), nn.Linear(4 * width, num_classes))
""",
    "my_lab-1.5.dist-info/METADATA": "Metadata-Version: 2.1\nName: my-lab\nVersion: 1.5\n",
    "my_lab-1.5.dist-info/entry_points.txt": """
[distill_ray.model]
tiny = my_lab.tiny:FAMILY
[distill_ray.augmentation]
dim = my_lab.dim:Dim
[distill_ray.method]
plain = my_lab.plain:Plain
""",
}

WRITE = """
import json, sys
from pathlib import Path
import numpy as np
from safetensors.torch import save
from distill_ray.augmentation import AUGMENTATIONS
from distill_ray.export.card import _extensions
from distill_ray.export.formats import WRITERS
from distill_ray.job import Data, Job, Recipe, Split
from distill_ray.methods import METHODS
from distill_ray.models import build_model
from distill_ray.tracking.champion import StudentModel
from distill_ray.tracking.champion_model import load_student

images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)
np.save("images.npy", images)
data = Data(name="x", digest="d" * 64, location="x", label="label", split=Split(validation=10))
answers = {}
for model in ("tiny-4", "resnet8"):
    recipe = Recipe(model=model, method=METHODS["plain"](), augmentation=AUGMENTATIONS["dim"]())
    network = build_model(model, num_classes=3, image_shape=(1, 8, 8), seed=3)
    weights = save({name: each.contiguous() for name, each in network.state_dict().items()})
    champion = StudentModel(Job(recipe=recipe, data=data, seed=3), weights, tuple("abc"), images)
    for format in ("safetensors", "mlflow"):
        WRITERS[format](champion, Path(f"{model}-{format}"))
    answers[model] = load_student(Path(f"{model}-safetensors"), "cpu").predict(images).tolist()
    answers[f"{model} card"] = _extensions(champion)
print(json.dumps(answers))
"""

OPEN = """
import json, sys
import numpy as np
from distill_ray.errors import RequestError
from distill_ray.export import open_model
try:
    model = open_model(sys.argv[1], device="cpu")
    print(json.dumps(model.predict(np.load("images.npy")).tolist()))
except RequestError as error:
    print(json.dumps(str(error)))
"""


def python(folder: Path, code: str, *arguments: str, path: str = "") -> Any:
    """What a program prints last, as JSON; `path` is what it has on its path besides ours."""
    ours = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [ours, path]))}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The probabilities of two students where the extension is installed, and their cards."""
    site = tmp_path_factory.mktemp("site")
    for name, content in PACKAGE.items():
        (site / name).parent.mkdir(exist_ok=True)
        (site / name).write_text(content)
    return python(folder, WRITE, path=str(site))


@pytest.mark.parametrize("name", ["resnet8-safetensors", "resnet8-mlflow", "tiny-4-mlflow"])
def test_it_predicts_without_the_extension(folder: Path, trained: Any, name: str) -> None:
    expected = trained[name.rpartition("-")[0]]
    for row, wanted in zip(python(folder, OPEN, name), expected, strict=True):
        assert row == pytest.approx(wanted, abs=1e-6)


def test_a_network_whose_code_is_missing_says_which(folder: Path, trained: Any) -> None:
    message = python(folder, OPEN, "tiny-4-safetensors")
    assert "needs the extension my-lab 1.5 (model tiny), which is not installed" in message


def test_only_the_code_that_the_network_needs_is_carried(folder: Path, trained: Any) -> None:
    assert (folder / "tiny-4-mlflow/code/my_lab/tiny.py").is_file()
    assert not (folder / "resnet8-mlflow/code/my_lab").exists()


def test_the_card_names_extensions_with_their_versions(trained: Any) -> None:
    used = "Trained with my-lab 1.5 (method plain) and my-lab 1.5 (augmentation dim)."
    assert trained["resnet8 card"] == f"{used} The model runs without."
    assert "The network needs my-lab 1.5 (model tiny)." in trained["tiny-4 card"]
