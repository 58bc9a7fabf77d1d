"""What the settings of boards and of files that go out may not say together, and with those of files that come in."""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

from pipeline.settings.model import Settings
from pipeline.settings.rules.evidence import is_ed25519
from pipeline.settings.rules.files import Whereabouts, apart, problems_of_place, whereabouts_of

Found = Iterator[tuple[str, str, str]]
"""Each problem: the setting, what is wrong, what to write in its place."""

_KEYS = "Write: age-keygen -y its.key > its.recipients"


def problems_of_downtime(settings: Settings) -> Found:
    """Boards hold patient data: each place is one workstation's, and nothing lies there in clear text."""
    key_file = settings.downtime.key_file
    if key_file is not None and key_file.is_file() and not is_ed25519(_content(key_file), is_private=True):
        remedy = "Write: openssl genpkey -algorithm ed25519 -out boards.key"
        yield "downtime.key_file", f"{key_file} is no Ed25519 private key", remedy
    places: dict[Whereabouts, str] = {}
    for name, station in settings.downtime.workstations.items():
        where = f"downtime.workstations.{name}"
        yield from apart(places, whereabouts_of(station.folder), f"{where}.folder")
        if station.recipients_file is None and not settings.demo:
            yield f"{where}.recipients_file", "missing: patient data would lie there in clear text", _KEYS


def problems_of_files_out(settings: Settings) -> Found:
    """Each place is one receiver's, and what leaves is encrypted to it."""
    places = {whereabouts_of(settings.files_out.data_dir): "files_out.data_dir"}
    for name, receiver in settings.files_out.receivers.items():
        where = f"files_out.receivers.{name}"
        yield from problems_of_place(where, receiver)
        yield from apart(places, whereabouts_of(receiver), f"{where}.folder")
        if receiver.recipients_file is None and not settings.demo:
            yield f"{where}.recipients_file", "missing: files would lie there in clear text", _KEYS


def problems_between_places(settings: Settings) -> Found:
    """A file that goes out is not taken in again, and nobody who sends or gets files sees boards, nor our own copies."""
    coming = [("files.data_dir", whereabouts_of(settings.files.data_dir))]
    coming += [(f"files.partners.{name}.folder", whereabouts_of(each)) for name, each in settings.files.partners.items()]
    going = [("files_out.data_dir", whereabouts_of(settings.files_out.data_dir))]
    going += [(f"files_out.receivers.{name}.folder", whereabouts_of(each)) for name, each in settings.files_out.receivers.items()]
    stations = settings.downtime.workstations.items()
    boards = [(f"downtime.workstations.{name}.folder", whereabouts_of(each.folder)) for name, each in stations]
    for some, others in combinations((coming, going, boards), 2):
        for setting, found in others:
            for theirs, place in some:
                yield from apart({place: theirs}, found, setting)


def _content(path: Path) -> bytes:
    """What is in it; empty where it can't be read, of which another rule tells."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
