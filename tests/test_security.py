"""What others may have put into a study file, a store or an address must not run, escape or be
shown.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import distill_ray
from distill_ray.addresses import masked
from distill_ray.cli import main
from distill_ray.errors import DistillRayError, RequestError
from distill_ray.records import WEIGHTS, find_job
from distill_ray.resolve import data_of
from distill_ray.search.history import open_history
from distill_ray.search.warm_start import earlier_trials
from distill_ray.store import MANIFEST, Store, _seal
from distill_ray.study import load_study
from distill_ray.tracking import check_tracking
from distill_ray.training.checkpoint import is_intact

TINY = Path(__file__).with_name("tiny.yaml")


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_no_module_can_load_a_pickle_or_evaluate_text() -> None:
    forbidden = {"eval", "exec", "pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    for path in Path(distill_ray.__file__).parent.rglob("*.py"):
        # Tune leaves the error of a trial as a pickle, in a folder that this process has made.
        allowed = {"pickle"} if path.name == "_ray_internals.py" else set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules = {name.name.split(".")[0] for name in node.names} - allowed
                assert not modules & forbidden, path
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in forbidden, path
            if isinstance(node, ast.Call):
                call = ast.unparse(node.func)
                unsafe = {"eval", "exec", "yaml.load", "yaml.unsafe_load"}
                if path.name == "own_modules.py":  # code that the user names on the command line
                    unsafe.remove("exec")
                assert call not in unsafe, f"{path}: {call}"
                if call == "torch.load":  # of tensors and plain containers alone
                    arguments = [ast.unparse(keyword) for keyword in node.keywords]
                    assert "weights_only=True" in arguments, path
                for keyword in node.keywords:
                    if keyword.arg == "allow_pickle":
                        assert ast.unparse(keyword.value) == "False", f"{path}: {call}"


def test_a_pickle_in_the_place_of_weights_is_not_run(finished_study: Any, tmp_path: Path) -> None:
    shutil.copytree(finished_study.store.uri, tmp_path / "store")
    store, buffer = Store(str(tmp_path / "store")), io.BytesIO()
    torch.save({"weight": Bomb(tmp_path / "ran")}, buffer)
    job = store.names("jobs")[0]
    entry = json.loads(store.read(f"jobs/{job}/{MANIFEST}") or b"")
    file = entry["files"][WEIGHTS]
    store.write(file["path"], buffer.getvalue())
    file |= {
        "bytes": len(buffer.getvalue()),
        "sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
    }
    del entry["sha256"]
    store.write(f"jobs/{job}/{MANIFEST}", json.dumps(entry | {"sha256": _seal(entry)}).encode())
    found = find_job(store, job)
    assert found is not None
    with pytest.raises(Exception, match=r"(?i)header"):
        found.weights()
    content = hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue()
    assert not is_intact(content, job)
    assert not (tmp_path / "ran").exists()


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.sampled_from(
            ["..", ".", "../x", "a/b", "/etc", "a\\b", "~", "a\0b", ".hidden", "C:", "s3://x", ""]
        ),
        st.text(min_size=1, max_size=20).filter(lambda text: not text.isascii() or "/" in text),
    )
)
def test_names_that_could_leave_the_store_are_refused(name: str) -> None:
    with pytest.raises(RequestError):
        load_study(str(TINY), [f"name={json.dumps(name)}"])


@pytest.mark.parametrize(
    "path", ["../outside", "/etc/passwd", "jobs/a/../../../outside", "jobs/ab/x", "jobs/a/./x"]
)
def test_a_manifest_cannot_name_files_outside_of_its_record(path: str, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"1")
    store = Store.open(str(tmp_path / "store"))
    entry = {"path": path, "bytes": 1, "sha256": hashlib.sha256(b"1").hexdigest()}
    store.write(
        f"jobs/a/{MANIFEST}", json.dumps({"info": {}, "files": {"weights": entry}}).encode()
    )
    assert store.get("jobs/a") is None
    assert (tmp_path / "outside").exists()


@pytest.mark.parametrize("what", ["../../secret", "/etc/passwd", "..", "%2e%2e"])
def test_logs_reads_logs_only(what: str, tmp_path: Path) -> None:
    (tmp_path / "secret.log").write_text("hidden")
    done = distill("logs", what, "--store", str(tmp_path / "store" / "deeper"))
    assert done.returncode == 2
    assert "hidden" not in done.stdout + done.stderr and "root:" not in done.stdout


def test_addresses_are_shown_without_credentials() -> None:
    assert (
        masked("s3://key:hidden@bucket/a?endpoint_override=x&secret_key=hidden") == "s3://bucket/a"
    )
    assert masked("/a folder/with @ and ?") == "/a folder/with @ and ?"
    assert masked("s3://bucket") == "s3://bucket"
    for address in (
        "s3://key:hidden@nowhere/x?scheme=http&endpoint_override=127.0.0.1:1&retry=hidden",
        "nofs://a:hidden@b/c",
    ):
        with pytest.raises(DistillRayError) as error:
            Store.open(address)
        assert "hidden" not in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        ("--tracking-uri", "http://me:hidden@127.0.0.1:1/x?token=hidden"),
        ("--tracking-uri", "postgresql://me:hidden@127.0.0.1:1/db"),
        ("--tracking-uri", "ftp://me:hidden@127.0.0.1/db"),
        ("--store", "s3://me:hidden@bucket/x?endpoint_override=127.0.0.1:1&scheme=http"),
        ("--store", "nothing://me:hidden@bucket/x"),
    ],
)
def test_commands_do_not_print_credentials(options: tuple[str, str], tmp_path: Path) -> None:
    store = () if options[0] == "--store" else ("--store", str(tmp_path))
    done = distill("run", str(TINY), *store, *options)
    assert done.returncode in (1, 2), done.stderr
    assert "hidden" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_search_storage_that_does_not_answer_is_said_without_its_password(tmp_path: Path) -> None:
    study = load_study(str(TINY))
    with pytest.raises(
        RequestError, match=r"--search-storage postgresql://127.0.0.1:1/db: cannot be used"
    ) as error:
        open_history(
            study,
            data_of(study),
            ["a"],
            Store.open(str(tmp_path)),
            "postgresql://me:hidden@127.0.0.1:1/db",
        )
    assert "hidden" not in str(error.value)
    with pytest.raises(RequestError) as refused:
        check_tracking("mysql://me:hidden@127.0.0.1:1/db")
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    "storage",
    ["postgresql://me:hidden@127.0.0.1:1/db", "mysql://me:hidden@127.0.0.1:1/db", "nothing"],
)
@pytest.mark.parametrize("command", ["run", "gc"])
def test_every_command_says_so_in_a_line(
    command: str,
    storage: str,
    finished_study: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`run` asks for earlier trials before anything is begun, `gc` for how trials stand."""
    shutil.copytree(finished_study.store.uri, tmp_path / "store")
    Store.open(str(tmp_path / "store")).write("work/unfinished/checkpoint.safetensors", b"1")
    places = ["--store", str(tmp_path / "store"), "--search-storage", storage]
    if command == "run":
        places += [
            "--set",
            "search.warm_start=[older]",
            "--tracking-uri",
            f"sqlite:///{tmp_path}/mlflow.db",
        ]
    assert main([command, str(finished_study.file), *places]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("--search-storage ") and "cannot be used (" in said.err
    assert len(said.err.splitlines()) == 1 and "hidden" not in said.out + said.err


def test_a_study_to_begin_with_that_is_missing_is_said_without_the_password(tmp_path: Path) -> None:
    study = load_study(str(TINY), ["search.warm_start=[older]"])
    with pytest.raises(
        RequestError, match=r"study older has no search by val/nll in sqlite:///.*/s\.db; name one"
    ) as error:
        earlier_trials(study, Store(str(tmp_path)), f"sqlite:///{tmp_path}/s.db?timeout=12345")
    assert "12345" not in str(error.value)
    with pytest.raises(RequestError, match=r"'s3://bucket/x' must hold no password") as error:
        load_study(str(TINY), ["search.warm_start=['older@s3://me:hidden@bucket/x?key=hidden']"])
    assert "hidden" not in str(error.value)


def distill(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "distill_ray", *arguments]
    environment = os.environ | {"AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
