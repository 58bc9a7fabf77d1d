"""Who has waited longest: the same as a look at all of them tells, whatever came and went."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.identifiers import Millis
from pipeline.domain.writing.ages import PASSED_OVER, STALE_SHARE, STALE_SPARE, Ages, first_of

KEYS = [b"%d" % number for number in range(8)]


class Known:
    """What waits, and its ages."""

    def __init__(self) -> None:
        self.since: dict[bytes, Millis] = {}
        self.looks = 0
        self.ages = Ages(self._is_live)

    def _is_live(self, since: Millis, key: bytes) -> bool:
        self.looks += 1
        return self.since.get(key) == since

    def put(self, key: bytes, since: int) -> None:
        self.since[key] = Millis(since)
        self.ages.add(Millis(since), key, len(self.since))


@given(
    st.lists(st.tuples(st.sampled_from(KEYS), st.one_of(st.none(), st.integers(0, 9))), max_size=60),
    st.sets(st.sampled_from(KEYS)),
    st.integers(0, 9),
)
def test_the_first_and_their_order_are_what_a_look_at_all_tells(
    steps: list[tuple[bytes, int | None]], but: set[bytes], count: int
) -> None:
    known = Known()
    for key, since in steps:
        if since is None:
            known.since.pop(key, None)
        else:
            known.put(key, since)
        assert known.ages.first() == min(known.since.values(), default=None)
        assert known.ages.first(but) == min((at for each, at in known.since.items() if each not in but), default=None)
        found = first_of(known.ages, count)
        assert [known.since[each] for each in found] == sorted(known.since.values())[:count]
        assert len(set(found)) == len(found)


def test_where_many_do_not_count_all_are_looked_at_once_and_not_each_again_and_again() -> None:
    known = Known()
    for number in range(4 * PASSED_OVER):
        known.put(b"%d" % number, number)
    but = {b"%d" % number for number in range(3 * PASSED_OVER)}
    known.looks = 0
    assert known.ages.first(but) == 3 * PASSED_OVER
    assert known.looks <= 3 * 4 * PASSED_OVER


def test_what_is_dead_below_one_that_waits_is_passed_over_once() -> None:
    known = Known()
    known.put(b"oldest", 0)
    for number in range(10 * PASSED_OVER):
        known.put(b"%d" % number, 1 + number)
    for number in range(10 * PASSED_OVER):
        del known.since[b"%d" % number]
    for _ in range(2):
        assert known.ages.first({b"oldest"}) is None
    known.looks = 0
    assert known.ages.first({b"oldest"}) is None
    assert known.looks <= 5


def test_replacing_costs_no_memory() -> None:
    known = Known()
    for since in range(50_000):
        known.put(b"A", since)
        known.put(b"B", 10 * since)
    assert len(known.ages._heap) <= STALE_SPARE + STALE_SHARE * 2 + 1
