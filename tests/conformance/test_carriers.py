"""What every place of files promises whoever reads and writes there.

Carriers are found in their folder; each needs an adapter in `tests/support/carrier_adapters.py`, or this suite fails.
"""

import importlib
import inspect
import pkgutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import pipeline.carriers
from pipeline.carriers.lease import Lease
from pipeline.carriers.objects import ObjectCarrier
from pipeline.carriers.places import MODULES
from pipeline.carriers.protocol import READ_BYTES, Carrier
from pipeline.carriers.sftp import SftpCarrier
from tests.support.carrier_adapters import KINDS, Place, place_of

NAME: Final = "census-20260105.csv"
HOSTILE: Final = ("", ".", "..", "../x", "a/b", "/etc/passwd", "a\0b", "x" * 300)


@pytest.fixture(scope="module", params=[kind for kinds in KINDS.values() for kind in kinds])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place_of(request.param, tmp_path_factory.mktemp(request.param)) as found:
        yield found


@pytest.fixture
def carrier(place: Place) -> Iterator[Carrier]:
    made = place.carrier()
    for room in ("in", "out"):
        for each in list(made.found(room)):
            made.remove(room, each.name)
    yield made
    made.let_go()


def content(carrier: Carrier, room: str, name: str) -> bytes:
    with carrier.open(room, name) as file:
        return b"".join(iter(lambda: file.read(1000), b""))


def names(carrier: Carrier, room: str, begins: str = "") -> list[str]:
    return sorted(each.name for each in carrier.found(room, begins))


def test_every_carrier_of_the_folder_is_known_and_tested() -> None:
    modules = [
        importlib.import_module(f"pipeline.carriers.{each.name}") for each in pkgutil.iter_modules(pipeline.carriers.__path__)
    ]
    found = {
        module.__name__.rpartition(".")[2]: cls
        for module in modules
        for cls in vars(module).values()
        if inspect.isclass(cls) and cls.__module__ == module.__name__ and cls is not Carrier and hasattr(cls, "scheme")
    }
    assert set(found) == set(KINDS)
    assert {cls.scheme for cls in found.values()} == {"", *MODULES}
    assert {(cls.__module__, cls.__name__) for cls in found.values() if cls.scheme} == set(MODULES.values())


def test_what_was_put_is_there_whole_and_listed_with_its_size(carrier: Carrier, tmp_path: Path) -> None:
    large = bytes(range(256)) * (READ_BYTES // 128)
    (tmp_path / "large").write_bytes(large)
    carrier.put("out", NAME, b"one")
    carrier.put("out", NAME, b"another")
    carrier.put("out", f"{NAME}.age", tmp_path / "large")
    assert content(carrier, "out", NAME) == b"another"
    assert content(carrier, "out", f"{NAME}.age") == large
    assert {each.name: each.size for each in carrier.found("out")} == {NAME: 7, f"{NAME}.age": len(large)}
    assert all(each.is_plain and each.since > 0 for each in carrier.found("out"))
    assert names(carrier, "out", f"{NAME}.") == [f"{NAME}.age"]


def test_nothing_is_there_of_a_name_that_nobody_wrote(carrier: Carrier) -> None:
    assert names(carrier, "in") == []
    assert carrier.stamp("in", NAME) is None
    carrier.remove("in", NAME)
    with pytest.raises(FileNotFoundError), carrier.open("in", NAME):
        pass


def test_a_stamp_is_that_of_the_listing_and_changes_with_the_content(place: Place, carrier: Carrier) -> None:
    place.send("in", NAME, b"one")
    (found,) = carrier.found("in")
    assert carrier.stamp("in", NAME) == found.stamp
    place.send("in", NAME, b"another")
    assert carrier.stamp("in", NAME) != found.stamp


def test_a_file_is_moved_only_while_it_is_what_it_was(place: Place, carrier: Carrier) -> None:
    place.send("in", NAME, b"one")
    (found,) = carrier.found("in")
    place.send("in", NAME, b"another")
    assert not carrier.move("in", NAME, "out", NAME, found.stamp)
    assert (names(carrier, "in"), names(carrier, "out")) == ([NAME], [])
    (now,) = carrier.found("in")
    assert carrier.move("in", NAME, "out", f"{NAME}.1", now.stamp)
    assert (names(carrier, "in"), content(carrier, "out", f"{NAME}.1")) == ([], b"another")
    assert not carrier.move("in", NAME, "out", NAME, now.stamp), "it is gone"


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_leaves_its_room(carrier: Carrier, name: str) -> None:
    for use in (
        lambda: carrier.put("out", name, b""),
        lambda: carrier.stamp("out", name),
        lambda: carrier.remove("out", name),
        lambda: carrier.move("in", NAME, "out", name, ()),
        lambda: carrier.open("out", name).__enter__(),
        lambda: list(carrier.found(name)),
    ):
        with pytest.raises(ValueError, match="not the name of a file"):
            use()


def test_one_at_a_time_holds_a_place(place: Place, carrier: Carrier) -> None:
    other = place.carrier()
    assert carrier.hold()
    assert carrier.hold(), "it is held still"
    assert not other.hold()
    carrier.let_go()
    assert other.hold()
    other.let_go()
    assert carrier.hold()


def test_who_died_without_a_word_is_followed_at_once_by_the_next_process_of_its_instance(place: Place) -> None:
    dead, follower, stranger = (place.carrier(owner) for owner in ("0/1/a", "0/2/b", "1/1/c"))
    leased(dead)
    assert dead.hold()
    assert not stranger.hold()
    assert follower.hold()
    assert not stranger.hold()
    leased(dead).beat()
    assert not dead.hold(), "what was taken while it was away is its no more"
    follower.let_go()
    assert stranger.hold()
    stranger.let_go()


def test_who_shows_that_it_is_there_keeps_the_place(place: Place, carrier: Carrier) -> None:
    leased(carrier)
    assert carrier.hold()
    for _ in range(3):
        leased(carrier).beat()
        assert carrier.hold()
        assert not place.carrier().hold()


def leased(carrier: Carrier) -> Lease:
    """What holds a place that has no locks of its own."""
    if not isinstance(carrier, SftpCarrier | ObjectCarrier):
        pytest.skip("the machine frees what a dead process held")
    return carrier._lease


def test_the_lock_is_in_no_room(carrier: Carrier) -> None:
    assert carrier.hold()
    assert names(carrier, "in") == names(carrier, "out") == []


def test_a_link_lets_its_holder_fetch_one_file_for_a_while(place: Place, carrier: Carrier) -> None:
    carrier.put("out", NAME, b"one")
    link = carrier.link("out", NAME, 60)
    if link is None or not link.startswith("http"):
        pytest.skip("this kind of place has no links")
    with urllib.request.urlopen(link) as answer:
        assert answer.read() == b"one"
    for wrong in (link.replace(NAME, f"{NAME}.age"), link.replace("X-Amz-Expires=60", "X-Amz-Expires=6000")):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(wrong)
    put = urllib.request.Request(link, data=b"two", method="PUT")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(put)
