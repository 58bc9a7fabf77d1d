"""The delimiters that MSH-1 and MSH-2 declare (chapter 2.5.4)."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Delimiters:
    """MSH-1 and MSH-2: field, component, repetition, escape, subcomponent, and truncation (2.7) if declared."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"
    truncation: str = ""

    @property
    def encoding(self) -> str:
        """MSH-2."""
        return self.component + self.repetition + self.escape + self.subcomponent + self.truncation


STANDARD: Final = Delimiters()
