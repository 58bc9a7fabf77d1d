"""What the settings of boards and of files that go out may not say together."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.settings.model import Settings
from pipeline.settings.rules.files import problems_of_place

Found = Iterator[tuple[str, str, str]]
"""Each problem: the setting, what is wrong, what to write in its place."""

_KEYS = "Write: age-keygen -y its.key > its.recipients"


def problems_of_downtime(settings: Settings) -> Found:
    """Boards hold patient data: each place is one workstation's, and nothing lies there in clear text."""
    folders: dict[Path, str] = {}
    for name, station in settings.downtime.workstations.items():
        where = f"downtime.workstations.{name}"
        yield from _apart(folders, station.folder, f"{where}.folder")
        if station.recipients_file is None and not settings.demo:
            yield f"{where}.recipients_file", "missing: patient data would lie there in clear text", _KEYS


def problems_of_files_out(settings: Settings) -> Found:
    """Each place is one receiver's, and what leaves is encrypted to it."""
    folders: dict[Path, str] = {settings.files_out.data_dir: "files_out.data_dir"}
    for name, receiver in settings.files_out.receivers.items():
        where = f"files_out.receivers.{name}"
        yield from problems_of_place(where, receiver)
        if receiver.path is not None:
            yield from _apart(folders, receiver.path, f"{where}.folder")
        if receiver.recipients_file is None and not settings.demo:
            yield f"{where}.recipients_file", "missing: files would lie there in clear text", _KEYS


def _apart(folders: dict[Path, str], path: Path, setting: str) -> Found:
    for other, theirs in folders.items():
        if path == other or other in path.parents or path in other.parents:
            yield setting, f"it and {theirs} lie within each other", "Give each a folder of its own"
    folders.setdefault(path, setting)
