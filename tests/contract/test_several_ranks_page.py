"""The page on several ranks: what it shows is taken by bash, by Kubernetes' schema and by the command line."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import yaml

from esper_core.cli._command import load_core
from esper_core.cli._parser import EsperParser

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "several-ranks.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def taken(words: list[str]) -> None:
    parser = EsperParser(prog="esper ppo")
    load_core("ppo").add_arguments(parser)
    parser.parse_strict(words)


def test_the_shell_lines_are_bash_and_start_a_command_that_is_taken() -> None:
    lines = 0
    for block in blocks("bash"):
        subprocess.run(["bash", "-n"], input=block, text=True, check=True, timeout=60)
        for line in re.findall(r"-m esper_core ppo (.*)", block.replace("\\\n", " ")):
            taken(shlex.split(line.removesuffix("'")))
            lines += 1
    assert lines >= 5


def test_the_job_is_one_of_as_many_alike_pods_as_ranks() -> None:
    (block,) = blocks("yaml")
    job = yaml.safe_load(block)
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    master, worker = (job["spec"]["pytorchReplicaSpecs"][name] for name in ("Master", "Worker"))
    assert master["replicas"] == 1, "rank 0"
    assert master["template"] == worker["template"], "ranks with another command are refused"
    model = importlib.import_module("cloudcoil.models.kubernetes.core.v1").PodTemplateSpec
    template: dict[str, Any] = model.model_validate(master["template"]).model_dump(by_alias=True, exclude_unset=True)
    assert template == master["template"]
    (container,) = template["spec"]["containers"]
    assert container["name"] == "pytorch", "the operator gives the variables to this one alone"
    program, command, *words = container["command"]
    assert (program, command) == ("esper", "ppo")
    taken(words)
    folder = words[words.index("--dir") + 1]
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == [folder]
