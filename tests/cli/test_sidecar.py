"""Checks that the sidecar recipes are what systemd, Kubernetes and the command take."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml  # type: ignore[import-untyped]  # mlflow brings it, without types

from langchain_mlflow_tracer.cli import main
from langchain_mlflow_tracer.settings.options import Forwarding
from langchain_mlflow_tracer.settings.settings import load

DOCS = Path(__file__).resolve().parents[2] / "docs"
RECIPES = DOCS / "sidecar"
UNITS = sorted(RECIPES.glob("*.service"))


def check(line: list[str]) -> None:
    """Fail if the command does not take these arguments; nothing is run."""
    program, name, *rest = line
    assert Path(program).name == "langchain-mlflow-tracer"
    command = main.commands[name]
    command.make_context(name, rest, parent=click.Context(main))


@pytest.fixture
def pod() -> dict[str, Any]:
    """Return what the manifest says of the pod."""
    *_, deployment = yaml.safe_load_all((RECIPES / "kubernetes.yaml").read_text())
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels(deployment).items()
    spec: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return spec


def labels(deployment: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = deployment["spec"]["template"]["metadata"]["labels"]
    return found


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container["env"]}


class TestKubernetes:
    def test_the_kubernetes_sidecar_starts_with_arguments_that_the_command_accepts(
        self, pod: dict[str, Any]
    ) -> None:
        (sidecar,) = pod["initContainers"]
        check(sidecar["command"])
        linger = float(sidecar["command"][sidecar["command"].index("--linger") + 1])
        assert linger + 10 < pod["terminationGracePeriodSeconds"]

    def test_the_kubernetes_sidecar_is_ready_when_it_sends(self, pod: dict[str, Any]) -> None:
        *_, line = pod["initContainers"][0]["readinessProbe"]["exec"]["command"]
        status, grep = line.split(" | ")
        check(status.split())
        pattern = re.search("'(.+)'", grep)
        assert pattern is not None
        assert pattern[1] in '{"spool_dir": "/spool", "forwarding": true, "waiting": 0}'

    def test_the_kubernetes_sidecar_and_the_application_share_user_spool_and_volumes(
        self, pod: dict[str, Any]
    ) -> None:
        (sidecar,), (application,) = pod["initContainers"], pod["containers"]
        ours, theirs = variables(sidecar), variables(application)
        assert ours["LANGCHAIN_MLFLOW_TRACER_SPOOL_DIR"] == theirs["LANGCHAIN_MLFLOW_TRACER_SPOOL_DIR"]
        assert not any("runAsUser" in one["securityContext"] for one in (sidecar, application))
        assert pod["securityContext"]["runAsUser"] > 0
        names = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for one in (sidecar, application) for mount in one["volumeMounts"]} <= names

    def test_the_tracer_accepts_the_settings_of_the_kubernetes_recipe(
        self, pod: dict[str, Any], tmp_path: Path
    ) -> None:
        theirs = variables(pod["containers"][0])
        theirs["LANGCHAIN_MLFLOW_TRACER_SPOOL_DIR"] = str(tmp_path)
        settings = load({}, theirs)
        expected: Forwarding = "none"
        assert settings.forwarder == expected
        assert settings.destination.experiment_name == "assistant"


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
class TestSystemd:
    def test_the_systemd_unit_starts_with_arguments_that_the_command_accepts(self, unit: Path) -> None:
        started = re.search(r"^ExecStart=(.+)$", unit.read_text(), re.MULTILINE)
        assert started is not None
        check(started[1].split())

    @pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
    def test_systemd_accepts_the_unit(self, unit: Path, tmp_path: Path) -> None:
        # The command need not be installed where it would be.
        text = re.sub(r"^(ExecStart=)\S+", r"\g<1>/bin/true", unit.read_text(), flags=re.MULTILINE)
        (tmp_path / "recipe.service").write_text(text)
        whose = ["--user"] if ".user." in unit.name else []
        done = subprocess.run(
            ["systemd-analyze", "verify", *whose, "recipe.service"],
            cwd=tmp_path, env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")


def test_the_manual_names_every_command_and_option() -> None:
    manual = (DOCS / "operations.md").read_text()
    for name, command in main.commands.items():
        section = manual.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert section, name
        for sub in command.commands.values() if isinstance(command, click.Group) else [command]:
            for parameter in sub.params:
                if isinstance(parameter, click.Option):
                    assert parameter.opts[0] in section, f"{name} {parameter.opts[0]}"
