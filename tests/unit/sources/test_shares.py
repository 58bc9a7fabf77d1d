"""A ceiling that several senders share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources.connections import Peer, over_share
from pipeline.sources.shares import Denied, Shares


def taken(shares: Shares[str], holder: str, amount: int = 1) -> int:
    """How often the amount was to be had."""
    times = 0
    while shares.denied(holder, amount) is None:
        shares.take(holder, amount)
        times += 1
    return times


def test_one_holder_alone_gets_half_and_each_that_comes_gets_what_is_left_for_it() -> None:
    shares: Shares[str] = Shares(100)
    assert [taken(shares, holder) for holder in "abc"] == [50, 25, 13]
    assert shares.denied("a", 1) is Denied.SHARE
    shares.give("a", 50)
    assert taken(shares, "d") >= 25


def test_pressure_behind_it_takes_from_those_who_hold_most_and_leaves_a_newcomer_alone() -> None:
    shares: Shares[str] = Shares(100)
    shares.take("flood", 20)
    assert shares.denied("flood", 1, pressure=0.1) is None
    assert shares.denied("flood", 1, pressure=0.5) is Denied.SHARE
    assert shares.denied("other", 1, pressure=0.9) is None


def test_a_holder_of_little_is_not_turned_away_for_the_pressure_of_others() -> None:
    requests: Shares[str] = Shares(1_000)
    requests.take("ward", 1)
    assert requests.denied("ward", 1, pressure=0.99) is None
    requests.take("ward", 1)
    assert requests.denied("ward", 1, pressure=0.99) is Denied.SHARE


@pytest.mark.parametrize(
    ("behind", "amount"), [(64_000, 1_000), (64_000, 16_000), (180_000, 16_000), (2_000_000, 300_000), (32_000_000, 900_000)]
)
def test_one_that_floods_leaves_room_to_others_however_little_there_is_behind(behind: int, amount: int) -> None:
    shares: Shares[str] = Shares(16_000_000)
    while shares.denied("flood", amount, pressure=min(1.0, shares.held / behind)) is None:
        shares.take("flood", amount)
    assert shares.held / behind <= 0.8
    assert shares.held >= 0.2 * min(behind, shares.ceiling), "and uses what nobody else asks for"


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(1, 40), st.booleans()), max_size=200))
def test_the_ceiling_holds_and_who_holds_nothing_is_denied_only_what_nobody_would_get(
    steps: list[tuple[str, int, bool]],
) -> None:
    shares: Shares[str] = Shares(100)
    held: list[tuple[str, int]] = []
    for holder, amount, gives in steps:
        if gives and held:
            shares.give(*held.pop(0))
        denied = shares.denied(holder, amount)
        if denied is None:
            shares.take(holder, amount)
            held.append((holder, amount))
        elif holder not in {who for who, _ in held}:
            assert denied is Denied.FULL
            assert amount > shares.ceiling - shares.held
        assert shares.held == sum(amount for _, amount in held) <= shares.ceiling
        assert len(shares) == len({who for who, _ in held})


def peers(address: str, count: int) -> list[Peer]:
    return [Peer(number, address, number) for number in range(count)]


def test_an_address_that_holds_most_connections_loses_what_is_beyond_its_share_and_nobody_else_does() -> None:
    over = over_share(peers("flood", 90) + peers("ward", 3) + peers("board", 2), ceiling=100)
    assert {address: len(theirs) for address, theirs in over.items()} == {"flood": 43}  # 90 of which 47 stay: (100 - 5) // 2


def test_two_addresses_that_flood_come_down_to_a_third_each() -> None:
    held = {"a": 50, "b": 50}
    for _ in range(6):
        for address, theirs in over_share(peers("a", held["a"]) + peers("b", held["b"]), ceiling=100).items():
            held[address] -= len(theirs)
        held = {address: count + 1 for address, count in held.items()}  # and they go on trying
    assert all(count <= 40 for count in held.values())
