"""The flags file under a running writer: each good change gets into force after its flips are durable, no broken one does."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Accepted
from pipeline.domain.writing.rollout import Scope
from pipeline.ops.flag_file import BadFlags, parse_flags
from pipeline.ops.metrics import REGISTRY
from pipeline.roles.process import Refused
from pipeline.roles.writers import flags as flags_module
from pipeline.roles.writers.flags import KEPT, Flags
from tests.support.changes import change

BOUND_S = 20.0
VARIANTS = {
    "shadow": {"mode": "shadow"},
    "one": {"mode": "limited", "facilities": ["F"]},
    "full": {"mode": "full"},
}


def document(variant: str, targeting: object = None, name: str = "rollout.ehr", **more: Any) -> dict[str, Any]:
    flag: dict[str, Any] = {"state": "ENABLED", "variants": VARIANTS, "defaultVariant": variant, **more}
    return {"flags": {name: flag | ({"targeting": targeting} if targeting is not None else {})}}


def of_tenant(tenant: str, facility: str = "F") -> Accepted:
    return msgspec.structs.replace(change(1), tenant=tenant, facility=facility)


class Notes:
    """The audit chain; `hold` keeps an entry from becoming durable."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str, str, dict[str, str], str]] = []
        self.free = asyncio.Event()
        self.free.set()

    async def note(
        self, action: str, subject: str, destination: str, cause: str, figures: dict[str, str], at: Millis, actor: str
    ) -> None:
        await self.free.wait()
        self.entries.append((action, subject, cause, figures, actor))

    def flips(self) -> list[tuple[str, str]]:
        return [(subject, cause) for action, subject, cause, _, _ in self.entries if action == "rollout.flipped"]


class Lab:
    """A flags file and a writer's flags that follow it, looking every few milliseconds."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(flags_module, "POLL_S", 0.005)
        self.file = folder / "flags.yaml"
        self.folder = folder / "table"
        self.notes = Notes()
        self.flipped = 0
        self.refused: list[str] = []
        said = lambda line, **fields: self.refused.append(fields["cause"]) if line.name == "flags.refused" else None  # noqa: E731
        monkeypatch.setattr(flags_module, "emit", said)

    def write(self, content: object) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(content if isinstance(content, str) else json.dumps(content))
        new.rename(self.file)

    def flags(self, scopes: tuple[Scope, ...] = (Scope("t", EntityType.BED),)) -> Flags:
        return Flags(self.file, self.folder, "ehr", ["ehr", "other"], scopes)

    async def count(self) -> int:
        self.flipped += 1
        return 0

    @contextmanager
    def following(self, flags: Flags) -> Iterator[None]:
        task = asyncio.create_task(flags.follow(self.notes, self.count))
        try:
            yield
            assert not task.done()
        finally:
            task.cancel()


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(tmp_path, monkeypatch)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BOUND_S
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.005)


async def test_without_a_file_everything_is_written_and_the_chain_says_so(tmp_path: Path) -> None:
    flags, notes = Flags(None, tmp_path, "ehr", ["ehr"], [Scope("t", EntityType.BED)]), Notes()

    async def nobody() -> int:
        raise AssertionError

    await flags.follow(notes, nobody)
    assert flags.may_write(of_tenant("anybody"))
    assert notes.entries == [("rollout.start", "ehr", "start", {"t/bed": "full"}, "flags:none")]


async def test_a_file_that_does_not_name_a_destination_leaves_it_in_shadow(lab: Lab) -> None:
    lab.write(document("full", name="rollout.other"))
    assert not lab.flags().may_write(of_tenant("t"))
    lab.write(document("full", state="DISABLED"))
    assert not lab.flags().may_write(of_tenant("t"))


async def test_a_change_of_the_file_gets_into_force_with_each_flip_in_the_chain(lab: Lab) -> None:
    lab.write(document("shadow"))
    flags = lab.flags()
    assert not flags.may_write(of_tenant("t"))
    with lab.following(flags):
        for variant in ("one", "full", "shadow"):
            before = lab.flipped
            lab.write(document(variant))
            await until(lambda before=before: lab.flipped > before)  # type: ignore[misc]
            assert flags.may_write(of_tenant("t")) is (variant != "shadow")
            assert flags.may_write(of_tenant("t", "G")) is (variant == "full")
    causes = ["shadow to limited", "limited to full", "full to shadow"]
    assert lab.notes.flips() == [("t/bed", cause) for cause in causes]
    assert {actor for _, _, _, figures, actor in lab.notes.entries[1:] if actor != f"flags:{figures['digest'][:16]}"} == set()


async def test_a_change_that_flips_nothing_is_no_flip(lab: Lab) -> None:
    lab.write(document("full"))
    flags = lab.flags()
    with lab.following(flags):
        lab.write(document("full", metadata={"owner": "somebody"}))
        await until(lambda: lab.flipped == 1)
    assert lab.notes.flips() == []


async def test_a_tenant_has_its_own_rule_and_its_own_flip(lab: Lab) -> None:
    only = {"if": [{"==": [{"var": "tenant"}, "acme"]}, "full", None]}
    lab.write(document("shadow"))
    flags = lab.flags()
    assert not flags.may_write(of_tenant("acme"))
    with lab.following(flags):
        lab.write(document("shadow", only))
        await until(lambda: lab.flipped == 1)
        assert flags.may_write(of_tenant("acme"))
        assert not flags.may_write(of_tenant("t"))
    assert lab.notes.flips() == [("acme/bed", "shadow to full")]


async def test_the_closer_flag_counts(lab: Lab) -> None:
    both = document("full")
    both["flags"] |= document("shadow", name="rollout.ehr.bed")["flags"]
    lab.write(both)
    flags = lab.flags()
    assert not flags.may_write(of_tenant("t"))
    assert flags._rule("t", EntityType.ENCOUNTER).mode.value == "full"


@pytest.mark.parametrize("broken", ["", "{", "flags: 3", '{"flags": {"rollout.ehr": {}}}', '{"flags": {"rollout.her": {}}}'])
async def test_a_broken_file_keeps_the_last_good_one_and_says_so_once(lab: Lab, broken: str) -> None:
    lab.write(document("full"))
    flags = lab.flags()
    with lab.following(flags):
        lab.write(broken)
        await until(lambda: len(lab.refused) == 1)
        assert REGISTRY.get_sample_value("surgeline_flags_broken", {"destination": "ehr"}) == 1
        await asyncio.sleep(0.05)
        assert (len(lab.refused), lab.flipped, flags.may_write(of_tenant("t"))) == (1, 0, True)
        lab.write(document("shadow"))
        await until(lambda: lab.flipped == 1)
    assert REGISTRY.get_sample_value("surgeline_flags_broken", {"destination": "ehr"}) == 0
    assert not flags.may_write(of_tenant("t"))


async def test_a_file_that_is_taken_away_keeps_the_last_good_one(lab: Lab) -> None:
    lab.write(document("full"))
    flags = lab.flags()
    with lab.following(flags):
        lab.file.unlink()
        await until(lambda: bool(lab.refused))
        assert flags.may_write(of_tenant("t"))


async def test_a_broken_file_that_is_mended_to_what_was_in_force_flips_nothing(lab: Lab) -> None:
    lab.write(document("full"))
    flags = lab.flags()
    with lab.following(flags):
        lab.write("{")
        await until(lambda: bool(lab.refused))
        lab.write(document("full"))
        await until(lambda: REGISTRY.get_sample_value("surgeline_flags_broken", {"destination": "ehr"}) == 0)
    assert (lab.notes.flips(), flags.may_write(of_tenant("t"))) == ([], True)


async def test_a_flip_while_no_writer_ran_is_told_at_its_next_start_and_once(lab: Lab) -> None:
    lab.write(document("shadow"))
    for variant, flips in (("shadow", []), ("full", [("t/bed", "shadow to full")]), ("full", [])):
        lab.write(document(variant))
        lab.notes = Notes()
        with lab.following(lab.flags()):
            digest = parse_flags(lab.file.read_bytes(), ["ehr"]).digest
            await until(lambda digest=digest: kept_digest(lab) == digest and bool(lab.notes.entries))  # type: ignore[misc]
            await until(lambda flips=flips: lab.notes.flips() == flips)  # type: ignore[misc]
        assert lab.notes.flips() == flips
        assert lab.notes.entries[0][0] == "rollout.start"


async def test_flags_that_are_configured_no_more_are_a_flip_to_full(lab: Lab) -> None:
    lab.write(document("shadow"))
    with lab.following(lab.flags()):
        await until(lambda: kept_digest(lab) is not None)
    lab.notes = Notes()
    await Flags(None, lab.folder, "ehr", ["ehr"], [Scope("t", EntityType.BED)]).follow(lab.notes, lab.count)
    assert lab.notes.flips() == [("t/bed", "shadow to full")]
    assert lab.notes.entries[-1][-1] == "flags:none"
    assert kept_digest(lab) is None


def kept_digest(lab: Lab) -> str | None:
    file = lab.folder / KEPT
    return parse_flags(file.read_bytes(), ["ehr", "other"]).digest if file.exists() else None


async def test_after_a_restart_a_broken_file_leaves_the_last_good_one_in_force(lab: Lab) -> None:
    lab.write(document("one"))
    with lab.following(lab.flags()):
        await until(lambda: kept_digest(lab) is not None)
    lab.write("{")
    again = lab.flags()
    assert (again.may_write(of_tenant("t")), again.may_write(of_tenant("t", "G"))) == (True, False)
    assert lab.refused == ["syntax"]


def test_a_writer_that_never_had_a_good_file_does_not_start_and_says_what_is_wrong(lab: Lab) -> None:
    lab.write(document("nothing"))
    with pytest.raises(Refused, match=r"flags_file: rollout\.ehr: defaultVariant"):
        lab.flags()
    assert not (lab.folder / KEPT).exists()


async def test_what_the_new_flags_forbid_stops_before_the_flip_is_durable_and_what_they_allow_waits_for_it(lab: Lab) -> None:
    lab.write(document("full"))
    flags = lab.flags()
    with lab.following(flags):
        await until(lambda: len(lab.notes.entries) == 1)
        lab.notes.free.clear()
        lab.write(document("shadow"))
        await until(lambda: not flags.may_write(of_tenant("t")))
        assert lab.notes.flips() == []
        lab.notes.free.set()
        await until(lambda: lab.flipped == 1)
        lab.notes.free.clear()
        lab.write(document("full"))
        await until(lambda: flags._next is not None)
        assert not flags.may_write(of_tenant("t")), "not before the chain holds the flip"
        lab.notes.free.set()
        await until(lambda: flags.may_write(of_tenant("t")))
    assert lab.notes.flips() == [("t/bed", "full to shadow"), ("t/bed", "shadow to full")]


def test_a_file_that_is_still_being_written_is_no_word_yet(lab: Lab) -> None:
    lab.write(document("shadow"))
    flags = lab.flags()
    lab.write(document("full"))
    assert flags._changed(lab.file) is None
    found = flags._changed(lab.file)
    assert found is not None
    assert found.rule("ehr", Scope("t", EntityType.BED)).mode.value == "full"


def test_asking_takes_microseconds(lab: Lab) -> None:
    lab.write(document("one"))
    flags, accepted, asked = lab.flags(), of_tenant("t"), 20_000
    best = min(_seconds(flags, accepted, asked) for _ in range(5))
    assert best / asked < 100e-6, "a rule is evaluated once for each change of the file, not for each write"


def _seconds(flags: Flags, accepted: Accepted, times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        flags.may_write(accepted)
    return time.process_time() - began


def text_of(targeting: object = None, name: str = "rollout.ehr", **more: Any) -> str:
    return json.dumps(document("full", targeting, name, **more))


@pytest.mark.parametrize(
    ("text", "cause", "told"),
    [
        ("\u0000", "syntax", "line"),
        ("[1, 2]", "shape", "flags:"),
        ("flags: {rollout.ehr: {}, rollout.ehr: {}}", "syntax", "line 1"),
        (text_of(state="ON"), "flag", "state"),
        (text_of(more=1), "flag", "state"),
        (text_of(name="rollout.nobody"), "flag", "names no destination"),
        (text_of({"if": [True, "w"]}), "flag", "targeting"),
        (text_of({"$ref": "x"}), "flag", "targeting"),
        (text_of({"var": "facility"}), "flag", "ask for"),
        ("x" * 1_000_001, "size", "bytes"),
        ("[" * 100_000, "syntax", "line"),
    ],
)
def test_a_file_that_can_not_be_meant_is_refused_whole(text: str, cause: str, told: str) -> None:
    with pytest.raises(BadFlags) as refused:
        parse_flags(text.encode(), ["ehr"])
    assert refused.value.cause == cause
    assert told in "; ".join(refused.value.problems)


def test_flags_of_other_things_are_left_alone_and_shared_conditions_work() -> None:
    text = """
    $evaluators:
      acme: {"==": [{"var": "tenant"}, "acme"]}
    flags:
      dark-mode: {state: ENABLED, variants: {"on": true, "off": false}, defaultVariant: "off"}
      rollout.ehr:
        state: ENABLED
        variants: {shadow: {mode: shadow}, full: {mode: full}}
        defaultVariant: shadow
        targeting: {"if": [{"$ref": "acme"}, "full"]}
    """
    flags = parse_flags(text.encode(), ["ehr"])
    flags.put_into_force()
    for tenant, mode in (("acme", "full"), ("t", "shadow")):
        for rule in (flags.rule, flags.rule_in_force):
            assert rule("ehr", Scope(tenant, EntityType.BED)).mode.value == mode
