"""Which requests a fault strikes."""

import msgspec
import pytest

from pipeline.local.servers.faults import MAX_FAULTS, Fault, FaultKind, Faults, Strike


def test_no_faults_pass_everything() -> None:
    assert Faults().strike("PUT") == Strike()


def test_fault_strikes_only_its_methods_and_as_often_as_told() -> None:
    faults = Faults()
    unavailable = Fault(kind=FaultKind.UNAVAILABLE, methods=("PUT",), times=2)
    faults.set(unavailable)
    struck = [faults.strike(method).fault for method in ("GET", "PUT", "PUT", "PUT")]
    assert struck == [None, unavailable, unavailable, None]
    assert faults.struck(FaultKind.UNAVAILABLE) == 2


def test_delays_add_up_and_go_with_another_fault() -> None:
    faults = Faults()
    reset = Fault(kind=FaultKind.RESET_BEFORE)
    faults.set(
        Fault(kind=FaultKind.LATENCY, amount=0.25),
        reset,
        Fault(kind=FaultKind.UNAVAILABLE),
        Fault(kind=FaultKind.LATENCY, amount=0.5),
        Fault(kind=FaultKind.SLOW_FACTOR, amount=3),
    )
    assert faults.strike("GET") == Strike(0.75, 3, reset)
    assert faults.struck(FaultKind.UNAVAILABLE) == 0


def test_same_seed_strikes_the_same_requests() -> None:
    def pattern(seed: int) -> list[bool]:
        faults = Faults(seed)
        faults.set(Fault(kind=FaultKind.TRUNCATED, probability=0.3))
        return [faults.strike("PUT").fault is not None for _ in range(200)]

    assert pattern(7) == pattern(7)
    assert pattern(7) != pattern(8)
    assert 30 <= sum(pattern(7)) <= 90


def test_number_of_faults_is_bounded() -> None:
    with pytest.raises(ValueError, match="are allowed"):
        Faults().set(*[Fault(kind=FaultKind.LATENCY)] * (MAX_FAULTS + 1))


def test_misspelt_fault_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"kind":"latency","ammount":1}', type=Fault)
