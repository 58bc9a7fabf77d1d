"""What pyproject.toml cannot say: topics/ and avro_schemas/ travel with the package, with one folder per schema name.

An installation finds them under `<prefix>/share/surgeline` (pipeline/resources.py).
"""

from collections import defaultdict
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent
SHIPPED = {"topics": ".yaml", "avro_schemas": ".avsc .json .yaml"}


def data_files() -> list[tuple[str, list[str]]]:
    """Each folder under `<prefix>` with the files that go there, named from this folder."""
    folders: dict[str, list[str]] = defaultdict(list)
    for name, suffixes in SHIPPED.items():
        for file in sorted((HERE / name).rglob("*")):
            if file.is_file() and file.suffix in suffixes.split():
                relative = file.relative_to(HERE)
                folders[f"share/surgeline/{relative.parent}"].append(str(relative))
    return sorted(folders.items())


setup(data_files=data_files())
