"""The cluster files at the top level, read by Ray's own loader and schema."""

from __future__ import annotations

import copy
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    """`cluster.yaml` with Ray's defaults filled in."""
    from ray.autoscaler._private.util import prepare_config

    prepared: dict[str, Any] = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    return prepared


def test_ray_accepts_the_cluster(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import validate_config

    validate_config(cluster)
    wrong = copy.deepcopy(cluster) | {"heads": 1}
    with pytest.raises(Exception, match="heads"):
        validate_config(wrong)


def test_the_provider_is_one_of_rays(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.providers import _get_default_config

    assert cluster["provider"]["type"] == "aws"
    assert _get_default_config(cluster["provider"])


def test_the_head_trains_nothing_and_workers_are_spot(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    head = types.pop(cluster["head_node_type"])
    assert head["resources"]["CPU"] == 0
    assert "InstanceMarketOptions" not in head["node_config"]
    for worker in types.values():
        assert worker["min_workers"] == 0 < worker["max_workers"] <= cluster["max_workers"]
        assert worker["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"


def test_the_commands_are_options_of_ray(cluster: dict[str, Any]) -> None:
    """Every option of `ray start` exists, the head has no CPU, the token is on, and the job server
    is on loopback.
    """
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    commands = {kind: cluster[f"{kind}_start_ray_commands"] for kind in ("head", "worker")}
    for lines in commands.values():
        assert all("~/.distill-ray" in line for line in lines)
        (line,) = [line for line in lines if "ray start" in line]
        words = shlex.split(line.partition("ray start")[2])
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known
    (head,) = [
        shlex.split(line.partition("ray start")[2])
        for line in commands["head"]
        if "ray start" in line
    ]
    options = dict(zip(head[1::2], head[2::2], strict=True))
    assert (options["--num-cpus"], options["--dashboard-host"]) == ("0", "127.0.0.1")
    assert options["--autoscaling-config"] == "~/ray_bootstrap_config.yaml"
    assert any("RAY_AUTH_MODE=token" in line for line in cluster["setup_commands"])
    (server,) = [line for line in commands["head"] if "mlflow server" in line]
    assert "--host 127.0.0.1" in server and "postgresql" in server and "s3://" in server
    assert any(mount.endswith(".ray/auth_token") for mount in cluster["file_mounts"])


def test_the_manifest_of_kuberay() -> None:
    job = yaml.safe_load((ROOT / "kuberay.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    assert shlex.split(spec["entrypoint"])[:2] == ["distill-ray", "run"]
    assert isinstance(yaml.safe_load(spec["runtimeEnvYAML"]), dict)
    assert spec["submissionMode"] in ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode")
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    head = cluster["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    groups = [head, *cluster["workerGroupSpecs"]]
    assert all(
        isinstance(value, str) for group in groups for value in group["rayStartParams"].values()
    )
    images = {
        container["image"]
        for group in groups
        for container in group["template"]["spec"]["containers"]
    }
    assert len(images) == 1
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@pytest.mark.parametrize("name", ["cluster.yaml", "kuberay.yaml"])
def test_the_study_they_run_is_a_command_that_exists(name: str) -> None:
    """The options of `distill-ray run` in the files, and the study that they name."""
    from distill_ray.cli import commands

    text = (ROOT / name).read_text().replace("\\\n#", " ")
    line = next(part for part in text.split("distill-ray run ")[1:])
    words = line.replace("\n", " ").split()
    options = {option for parameter in commands.commands["run"].params for option in parameter.opts}
    used = [word for word in words[:12] if word.startswith("--")]
    assert {"--store", "--tracking-uri"} <= set(used) <= options
    assert (ROOT / words[0]).is_file()
