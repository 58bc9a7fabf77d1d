"""An installed wheel is whole: policies, profiles, topics and schemas travel with it, and the command works outside the tree."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import Final

import pytest

from pipeline.sources.http.openapi import EXAMPLE
from tests.conftest import REPOSITORY

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]

BUILD_S: Final = 200
NEEDED: Final = ("LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py", "avro_schemas", "pipeline", "topics")
NO_BACKEND: Final = ("Could not find a version", "Temporary failure in name resolution", "No matching distribution found")
SHARE: Final = "share/surgeline"


def run(command: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("SURGELINE_", "PYTHON", "VIRTUAL_ENV"))
    }
    return subprocess.run(command, capture_output=True, text=True, timeout=BUILD_S, cwd=folder, env=environment, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: building leaves things behind."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in NEEDED:
        place = REPOSITORY / name
        if place.is_dir():
            shutil.copytree(place, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(place, source / name)
    built = run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), str(source)], folder)
    if built.returncode and any(text in built.stderr for text in NO_BACKEND):
        pytest.skip("the build backend can't be fetched here")
    assert built.returncode == 0, built.stderr
    (made,) = folder.glob("surgeline-*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own with the wheel; what it depends on is borrowed from ours, the package itself is not."""
    place = tmp_path_factory.mktemp("venv") / "env"
    assert run([sys.executable, "-m", "venv", "--without-pip", str(place)], wheel.parent).returncode == 0
    python = place / "bin" / "python"
    answer = run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], place)
    (Path(answer.stdout.strip()) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    options = ["--quiet", "--no-deps", "--no-index", "--ignore-installed", "--disable-pip-version-check"]
    done = run([str(python), "-m", "pip", "install", *options, str(wheel)], place)
    assert done.returncode == 0, done.stderr
    return place


def shipped(*folders: str) -> set[str]:
    """Files of the tree's folders, named from the tree."""
    return {
        str(file.relative_to(REPOSITORY))
        for folder in folders
        for file in (REPOSITORY / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def test_the_wheel_holds_policies_profiles_types_topics_and_schemas(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert shipped("pipeline/policies", "pipeline/profiles") | {"pipeline/py.typed"} <= names
    shared = {name.partition(f".data/data/{SHARE}/")[2] for name in names}
    assert shipped("topics", "avro_schemas") <= shared
    assert not [name for name in names if name.startswith(("tests", "loadtest"))]


def test_an_installed_command_maps_checks_schemas_and_finds_topics_outside_the_tree(installed: Path, tmp_path: Path) -> None:
    command = str(installed / "bin" / "surgeline")
    (tmp_path / "event.json").write_text(json.dumps(EXAMPLE))
    mapped = run([command, "map", "event.json"], tmp_path)
    assert mapped.returncode == 0, mapped.stderr
    assert json.loads(mapped.stdout)["entity_id"] == EXAMPLE["entity_id"]
    checked = run([command, "schemas", "check"], tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    shown = run([command, "policy", "show"], tmp_path)
    assert shown.returncode == 0, shown.stderr

    told = run([str(installed / "bin" / "python"), "-c", WHERE], tmp_path)
    package, home, topics = told.stdout.split()
    assert Path(package).is_relative_to(installed)
    assert Path(home) == installed / SHARE
    assert int(topics) > 20


WHERE: Final = """
from pipeline import __file__, resources
from pipeline.kafka.specs import load_specs
print(__file__, resources.home(), len(load_specs(resources.topics_dir(), ["ehr"])))
"""
