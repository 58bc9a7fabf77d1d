"""Processor time and memory, as Linux tells them."""

import os
from pathlib import Path
from typing import Final

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


def look(pid: int) -> tuple[float, int]:
    """Processor seconds of a process with its threads, and its resident memory in bytes. OSError where it is gone."""
    parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    memory = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    return (int(parts[11]) + int(parts[12])) / _TICKS_PER_S, memory


def busy_s() -> float:
    """Processor seconds that anybody on this machine has used."""
    user, nice, system, _, _, *rest = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return sum(map(int, (user, nice, system, *rest[:3]))) / _TICKS_PER_S
