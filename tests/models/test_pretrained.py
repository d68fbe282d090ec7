"""`weights: pretrained` from a server: only the host is another one than that of torch or Hugging
Face.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import re
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save
from torchvision.models import ShuffleNet_V2_X0_5_Weights, get_model

from distill_ray.data import open_source
from distill_ray.errors import RequestError
from distill_ray.imported_weights import check_weights, keep_weights, stored_weights
from distill_ray.job import Job
from distill_ray.models import download
from distill_ray.models.pretrained import pretrained_file
from distill_ray.resolve import data_of
from distill_ray.store import Store
from distill_ray.study import StudyDefinition, load_study
from distill_ray.training import load_dataset, make_network

MODEL = "torchvision/shufflenet_v2_x0_5"
HUB = "/timm/test_resnet.r160_in1k/resolve/main/model.safetensors"


@dataclass
class Files:
    """What the server has by path, and what was asked of it: the path and the first byte."""

    content: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)
    breaks_after: list[int] = field(default_factory=list)
    """After how many bytes the connections break, one after the other."""
    resumes: bool = True
    port: int = 0


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    """A server on this machine, which every https address and Hugging Face's library lead to."""
    there = Files()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            first = int(re.findall(r"\d+", self.headers["Range"] or "0")[0])
            content = self.answer(first if there.resumes else 0)
            if not content:  # what Hugging Face's library asks beside the file
                return
            there.asked.append((self.path, first))
            if there.breaks_after:
                content = content[: there.breaks_after.pop(0)]
                self.close_connection = True
            self.wfile.write(content)

        def answer(self, first: int = 0) -> bytes:
            whole = there.content.get(self.path)
            if whole is None:
                self.send_error(404)
                return b""
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", str(len(whole) - first))
            self.send_header("ETag", f'"{hashlib.sha256(whole).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(whole) - 1}/{len(whole)}")
            self.end_headers()
            return whole[first:]

        def log_message(self, *arguments: object) -> None:
            """Quietly."""

    class ToThisMachine(urllib.request.HTTPSHandler):
        def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            def connection(host: str, **settings: Any) -> http.client.HTTPConnection:
                return http.client.HTTPConnection("127.0.0.1", there.port, settings["timeout"])

            return self.do_open(connection, request)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    there.port = server.server_port
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("urllib.request._opener", urllib.request.build_opener(ToThisMachine))
    hub = f"http://127.0.0.1:{server.server_port}"
    addresses = {
        "ENDPOINT": hub,
        "HUGGINGFACE_CO_URL_TEMPLATE": f"{hub}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
    }
    for name, address in addresses.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield there
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def network() -> torch.nn.Module:
    """A network as torchvision trains it, for ImageNet's classes."""
    torch.manual_seed(7)
    return get_model("shufflenet_v2_x0_5", num_classes=1000)


@pytest.fixture
def offered(
    files: Files, network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], bytes]:
    """Offers that network where torchvision's own are, under its digest; returns the file."""

    def offer() -> bytes:
        file = io.BytesIO()
        torch.save(network.state_dict(), file)
        content = file.getvalue()
        digest = hashlib.sha256(content).hexdigest()
        path = f"/models/shufflenetv2_x0.5-{digest[:10]}.pth"
        weights = ShuffleNet_V2_X0_5_Weights.DEFAULT.value
        monkeypatch.setattr(weights, "url", f"https://download.pytorch.org{path}")
        files.content[path] = content
        return content

    return offer


def left_in(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


STUDY = f"""
name: downloaded
data: {{source: photographs, validation: 2, test: 2}}
teachers: {{model: wrn-10-1, batch_size: 2}}
student: {{model: {MODEL}, weights: pretrained, epochs: 1, batch_size: 2}}
"""


def test_a_student_starts_from_what_was_downloaded(
    files: Files,
    offered: Callable[[], bytes],
    network: torch.nn.Module,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the study file to the weights of the network, whose classifier is another one; asked for
    once, however often the study is read.
    """
    content = offered()
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)
    for number, pixels in enumerate(images):
        path = Path("photographs", "train", "ab"[number % 2], f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)

    def read() -> StudyDefinition:
        Path("study.yaml").write_text(STUDY)
        return load_study("study.yaml")

    study = read()
    digest = hashlib.sha256(content).hexdigest()[:16]
    assert study.student.weights == f"shufflenet_v2_x0_5.pth@{digest}"
    assert read().student == study.student
    assert len(files.asked) == 1
    check_weights(study, open_source("photographs"))
    store = Store.open(str(tmp_path / "store"))
    keep_weights(store, study.weight_files)
    (tmp_path / "torch").rename(tmp_path / "elsewhere")
    initial = stored_weights(store, study.student.weights)
    data = data_of(study)
    job = Job(recipe=study.student, data=data, seed=0)
    student = make_network(job, load_dataset(data), initial)
    *given, _, _ = network.parameters()
    assert all(
        torch.equal(own, its) for own, its in zip(student.features.parameters(), given, strict=True)
    )
    assert student.classifier.weight.shape == (2, 1024)


@pytest.mark.parametrize("resumes", [True, False])
def test_a_broken_download_goes_on_where_it_broke(
    files: Files, offered: Callable[[], bytes], resumes: bool
) -> None:
    """Or from the beginning, where the server cannot do that."""
    content = offered()
    files.breaks_after, files.resumes = [100_000, 50_000], resumes
    file = pretrained_file(MODEL)
    assert file.read_bytes() == content
    assert [first for _, first in files.asked] == [0, 100_000, 150_000 if resumes else 50_000]
    assert left_in(file.parent) == [file.name]


def test_what_never_comes_whole_leaves_nothing(
    files: Files, offered: Callable[[], bytes], tmp_path: Path
) -> None:
    content = offered()
    files.breaks_after = [1000] * download.ATTEMPTS
    with pytest.raises(RequestError, match=r"cannot be downloaded \(the connection broke 5 times"):
        pretrained_file(MODEL)
    assert left_in(tmp_path / "torch") == []
    assert pretrained_file(MODEL).read_bytes() == content


def test_another_file_than_the_name_says_is_refused(
    files: Files, offered: Callable[[], bytes], tmp_path: Path
) -> None:
    content = offered()
    (path,) = files.content
    files.content[path] = content[:-1] + bytes([content[-1] ^ 1])
    digest = hashlib.sha256(content).hexdigest()[:10]
    with pytest.raises(
        RequestError, match=rf"its SHA-256 begins with [0-9a-f]{{10}}, not {digest}"
    ):
        pretrained_file(MODEL)
    assert left_in(tmp_path / "torch") == []


def test_a_file_that_is_not_there_is_said_to_be_so(
    files: Files, offered: Callable[[], bytes], tmp_path: Path
) -> None:
    offered()
    files.content.clear()
    with pytest.raises(RequestError, match=r"HTTP Error 404.*put it at .*torch/hub/checkpoints/"):
        pretrained_file(MODEL)
    assert left_in(tmp_path / "torch") == []


def test_weights_of_timm_come_from_hugging_face(files: Files, tmp_path: Path) -> None:
    """Whole, where the connection broke too; the second time nothing is asked."""
    pytest.importorskip("timm")
    content = save({"a.weight": torch.arange(50_000.0)})
    files.content[HUB] = content
    files.breaks_after = [70_000]
    file = pretrained_file("timm/test_resnet")
    assert file.read_bytes() == content
    assert len(files.asked) == 2
    assert pretrained_file("timm/test_resnet") == file and len(files.asked) == 2


def test_weights_that_hugging_face_does_not_have(files: Files) -> None:
    pytest.importorskip("timm")
    with pytest.raises(RequestError, match=r"model.safetensors of timm/test_resnet.* cannot be"):
        pretrained_file("timm/test_resnet")
