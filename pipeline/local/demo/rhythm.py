"""How a hospital's days go: hours of moves, lengths of stay, and ways between kinds of unit.

The figures are fitted to the bed moves of the MIMIC-III demo (Johnson et al., PhysioNet, version 1.4; 129 hospital
stays with 382 stays in a kind of unit) by `loadtest/fit_rhythm.py`, and rounded. Mind where they come from: every stay
there touches intensive care, so wards send more patients to it than a general hospital's do; its only recovery unit is
that of cardiac surgery (6 stays), which stands for the PACU; and emergency visits that end at home are not in it, for
which ED_HOME_SHARE is our assumption.
"""

import enum
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


class UnitKind(enum.StrEnum):
    """What a unit is for."""

    ED = "ED"
    ICU = "ICU"
    PACU = "PACU"
    WARD = "WARD"


LEFT: Final = "LEFT"
"""In place of a kind of unit: the patient left the hospital."""
ED_HOME_SHARE: Final = 0.15


@dataclass(frozen=True, slots=True)
class StayRhythm:
    """Length of stay in one kind of unit (log-normal: mean and standard deviation of the logarithm of hours), and what
    follows it (shares that add up to one)."""

    log_mean: float
    log_sd: float
    leads_to: MappingProxyType[str, float]


HOUR_WEIGHTS: Final = (
    *(0.8, 0.9, 0.6, 0.6, 0.6, 0.4, 0.5, 0.3, 0.3, 0.3, 0.8, 0.9),
    *(1.4, 0.9, 1.4, 1.6, 2.1, 2.3, 2.0, 1.1, 1.1, 1.2, 1.2, 0.8),
)
"""Moves per hour of the day, from midnight, relative to the mean: quiet at 7 to 9, at their height at 16 to 18."""

ENTRY: Final = MappingProxyType({UnitKind.ED: 0.71, UnitKind.ICU: 0.17, UnitKind.PACU: 0.02, UnitKind.WARD: 0.10})
"""Where a stay begins."""

STAYS: Final = MappingProxyType(
    {
        UnitKind.ED: StayRhythm(1.2, 0.6, MappingProxyType({UnitKind.ICU: 0.66, UnitKind.PACU: 0.01, UnitKind.WARD: 0.33})),
        UnitKind.ICU: StayRhythm(3.9, 1.3, MappingProxyType({UnitKind.WARD: 0.70, LEFT: 0.30})),
        UnitKind.PACU: StayRhythm(4.1, 0.9, MappingProxyType({UnitKind.WARD: 0.83, LEFT: 0.17})),
        UnitKind.WARD: StayRhythm(3.7, 1.5, MappingProxyType({UnitKind.ICU: 0.39, UnitKind.PACU: 0.02, LEFT: 0.59})),
    }
)
