"""The champion as others meet it: loaded from a folder or the registry, by a process that has only
what lies in the model.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from distill_ray.cli import main
from distill_ray.events import JobState
from distill_ray.export import open_model
from distill_ray.job import Data, Job, Recipe, Split
from distill_ray.models import build_model
from distill_ray.tracking import StudentModel, Tracker
from distill_ray.tracking.champion import save_champion
from distill_ray.tracking.champion_model import ChampionModel

JOB = Job(
    recipe=Recipe(model="wrn-10-1"),
    data=Data(
        name="tiny", digest="d" * 64, location="nowhere", label="label", split=Split(validation=10)
    ),
    seed=3,
)
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 9, 3), dtype=np.uint8)
TEMPERATURE = 1.7


@pytest.fixture(scope="module")
def champion_and_probabilities() -> tuple[StudentModel, np.ndarray]:
    """A champion, and what plain PyTorch says its probabilities for `IMAGES` are."""
    network = build_model(
        "wrn-10-1",
        num_classes=4,
        image_shape=(3, 8, 9),
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.2),
        seed=3,
    )
    network.train()
    network(torch.rand(16, 3, 8, 9))
    network.eval()
    with torch.inference_mode():
        logits = network(torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255)
    champion = StudentModel(
        JOB,
        save(network.state_dict()),
        ("a", "b", "c", "d"),
        IMAGES[:2],
        TEMPERATURE,
        "# The best\n",
    )
    return champion, torch.softmax(logits / TEMPERATURE, dim=1).numpy()


QUICK = (
    "from distill_ray.tracking.champion_model import _load_pyfunc as load; "
    "model = load({folder!r} + '/data/student')"
)
WHOLE = "import mlflow.pyfunc; model = mlflow.pyfunc.load_model({folder!r})"
STRANGER = """
import json, sys
sys.path[:] = [path for path in sys.path if path and (path != {repository!r})] + {code!r}
import numpy as np
{load}
images = np.load({images!r})
answers = {{"all": model.predict(images).tolist(), "one": model.predict(images[:1]).tolist()}}
answers["refused"] = ""
try:
    model.predict(images.astype(np.float32))
except Exception as error:
    answers["refused"] = str(error)
import distill_ray
answers["code"] = distill_ray.__file__
heavy = ("ray", "optuna", "sklearn", "matplotlib")
answers["loaded"] = [name for name in heavy if name in sys.modules]
print(json.dumps(answers))
"""


@pytest.mark.parametrize(
    "load",
    [QUICK, pytest.param(WHOLE, marks=pytest.mark.slow)],
    ids=["code alone", "through MLflow"],
)
def test_a_process_without_distill_ray_predicts_the_same(
    champion_and_probabilities: tuple[StudentModel, np.ndarray], tmp_path: Path, load: str
) -> None:
    champion, probabilities = champion_and_probabilities
    folder = tmp_path / "model"
    save_champion(champion, folder)
    np.save(tmp_path / "images.npy", IMAGES)
    code = STRANGER.format(
        repository=str(Path(__file__).parents[2]),
        code=[] if load == WHOLE else [str(folder / "code")],
        load=load.format(folder=str(folder)),
        images=str(tmp_path / "images.npy"),
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert result.returncode == 0, result.stderr
    answers = json.loads(result.stdout.splitlines()[-1])
    np.testing.assert_allclose(answers["all"], probabilities, atol=1e-6)
    np.testing.assert_allclose(answers["one"], probabilities[:1], atol=1e-6)
    assert answers["code"] == str(folder / "code" / "distill_ray" / "__init__.py")
    assert answers["loaded"] == []
    assert load == QUICK or "uint8" in answers["refused"]


def test_whoever_loads_the_model_chooses_the_device(
    champion_and_probabilities: tuple[StudentModel, np.ndarray], tmp_path: Path
) -> None:
    import mlflow.pyfunc

    save_champion(champion_and_probabilities[0], tmp_path / "model")
    here = "cuda" if torch.cuda.is_available() else "cpu"
    for chosen, device in ((None, here), ({"device": "cpu"}, "cpu"), ({"device": "meta"}, "meta")):
        model = mlflow.pyfunc.load_model(str(tmp_path / "model"), model_config=chosen)
        assert model._model_impl.device.type == device


def test_no_device_rounds_more_than_another() -> None:
    class Network(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(torch.backends.cudnn.allow_tf32)
            return images.mean(dim=(2, 3))

    seen: list[bool] = []
    before = torch.backends.cudnn.allow_tf32
    probabilities = ChampionModel(Network(), 1.0, torch.device("cpu")).predict(IMAGES)
    assert (probabilities.shape, seen) == ((5, 3), [False])
    assert torch.backends.cudnn.allow_tf32 == before


def test_the_folder_holds_weights_a_card_and_code_and_no_pickle(
    champion_and_probabilities: tuple[StudentModel, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'someone-elses'\n")
    (tmp_path / "uv.lock").write_text("version = 1\n")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "model"
    save_champion(champion_and_probabilities[0], folder)
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {name for name in names if not name.startswith("code/")} == {
        "MLmodel",
        "conda.yaml",
        "data/student/champion.json",
        "data/student/weights.safetensors",
        "input_example.json",
        "python_env.yaml",
        "requirements.txt",
        "serving_input_example.json",
    }
    assert not any(name.endswith(".pyc") for name in names)
    assert not any(b"pickle" in path.read_bytes() for path in folder.iterdir() if path.is_file())
    assert json.loads((folder / "data/student/champion.json").read_text())["class_names"] == [
        "a",
        "b",
        "c",
        "d",
    ]


def test_a_job_is_registered_once_and_the_alias_follows_the_best(
    champion_and_probabilities: tuple[StudentModel, np.ndarray],
    tracking_uri: str,
    tmp_path: Path,
    said: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    import mlflow.pyfunc
    from mlflow import MlflowClient

    champion, probabilities = champion_and_probabilities

    def study(best: StudentModel, key: str) -> None:
        artifacts = str(tmp_path / "artifacts")
        with Tracker(tracking_uri, "small", "abc", artifacts=artifacts) as tracker:
            tracker.start_study("small")
            tracker.start_job(key, key, {"lr": 0.1}, {"job_id": best.job.id})
            tracker.finish_job(key, JobState.FINISHED)
            tracker.log_champion(key, best)
            tracker.finish_study(JobState.FINISHED)

    client = MlflowClient(tracking_uri, tracking_uri)

    def version() -> str:
        return str(client.get_model_version_by_alias("small", "champion").version)

    other = replace(champion, job=replace(JOB, seed=4))
    seen = []
    for best, key in (
        (champion, "confirm/3"),
        (champion, "confirm/3"),
        (other, "confirm/4"),
        (champion, "confirm/3"),
    ):
        study(best, key)
        assert said == []
        seen.append(version())
    assert said == []
    assert seen == ["1", "1", "2", "1"]
    assert len(client.search_model_versions("name = 'small'")) == 2

    made = client.get_model_version("small", "1")
    assert made.description == "# The best\n"
    assert made.tags["job_id"] == JOB.id
    assert client.get_run(str(made.run_id)).info.run_name == "confirm/3"
    outputs = client.get_run(str(made.run_id)).outputs
    assert outputs is not None and len(outputs.model_outputs) == 1
    logged = client.get_logged_model(outputs.model_outputs[0].model_id)
    assert (str(logged.status), logged.source_run_id) == ("READY", made.run_id)
    assert json.loads(logged.tags["mlflow.modelVersions"]) == [{"name": "small", "version": "1"}]

    mlflow.set_tracking_uri(tracking_uri)
    model = mlflow.pyfunc.load_model("models:/small@champion")
    np.testing.assert_allclose(model.predict(IMAGES), probabilities, atol=1e-6)
    assert model.metadata.get_input_schema().input_types() == [np.dtype(np.uint8)]
    assert model.metadata.run_id == made.run_id and model.metadata.model_id == logged.model_id

    Image.fromarray(IMAGES[0]).save(tmp_path / "image.png")
    capsys.readouterr()
    there = ["--tracking-uri", tracking_uri, "--json"]
    assert main(["predict", "models:/small@champion", str(tmp_path / "image.png"), *there]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert list(answer["probabilities"]) == ["a", "b", "c", "d"]
    np.testing.assert_allclose(list(answer["probabilities"].values()), probabilities[0], atol=1e-6)
    assert main(["predict", "models:/other@champion", str(tmp_path / "image.png"), *there]) == 2
    assert "models:/other@champion: MLflow cannot load this model" in capsys.readouterr().err


def test_a_registry_of_its_own_is_written_and_read(
    champion_and_probabilities: tuple[StudentModel, np.ndarray],
    tracking_uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`MLFLOW_REGISTRY_URI` counts for registering and for looking up alike."""
    from mlflow import MlflowClient

    registry = f"sqlite:///{tmp_path / 'registry.db'}"
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", registry)
    champion, probabilities = champion_and_probabilities
    artifacts = str(tmp_path / "artifacts")
    with Tracker(tracking_uri, "apart", "abc", artifacts=artifacts) as tracker:
        tracker.start_study("apart")
        tracker.start_job("confirm/3", "confirm/3", {}, {})
        tracker.finish_job("confirm/3", JobState.FINISHED)
        tracker.log_champion("confirm/3", champion)
        tracker.finish_study(JobState.FINISHED)
    assert tracker.complete
    assert MlflowClient(tracking_uri, tracking_uri).search_registered_models() == []
    model = open_model("models:/apart@champion", tracking_uri=tracking_uri)
    np.testing.assert_allclose(model.predict(IMAGES), probabilities, atol=1e-6)
