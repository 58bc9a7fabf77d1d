"""`surgeline run downtime`: boards for the downtime workstations, every quarter of an hour, whatever else is down."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from pipeline.carriers.folder import FolderCarrier
from pipeline.carriers.protocol import Unreachable
from pipeline.destinations.files.boards import Board, BoardShelf, Sign
from pipeline.destinations.files.crypto import BadRecipients, encryptor
from pipeline.domain.identifiers import Millis
from pipeline.domain.ward.census import Unit
from pipeline.formats.boards.csv import render_csv
from pipeline.formats.boards.page import Stamp, render_html
from pipeline.ops import log_catalogue as lines
from pipeline.ops import metrics
from pipeline.ops.logs import code_of, emit, where
from pipeline.roles.downtime.state import Standing
from pipeline.roles.process import Process, Refused, now_ms
from pipeline.settings.model import Settings
from pipeline.settings.sections.files import DowntimeSettings, DowntimeWorkstation

TURN_S: Final = 1.0
"""How often it is looked whether boards are due."""
RETRY_S: Final = 30.0
"""A workstation whose place can't be written is tried again after so long."""
PATIENCE_S: Final = 60.0
"""So long the first boards wait until it is known up to when they are complete; then they say that it isn't known."""


class Workstation:
    """One place with boards of some units."""

    def __init__(self, name: str, section: DowntimeWorkstation, settings: Settings, sign: Sign | None = None) -> None:
        downtime = settings.downtime
        tenant = section.tenant or settings.tenant_default
        encrypt = encryptor(section.recipients_file) if section.recipients_file is not None else None
        self.name = name
        self.units = tuple(Unit(tenant, section.facility, code) for code in section.units)
        self._every_ms = round(downtime.every_s * 1000)
        self._zone = section.time_zone
        self._shelf = BoardShelf(FolderCarrier(section.folder), encrypt, downtime.keep, sign)
        self._not_before = Millis(0)
        self._rounds: dict[Unit, int] = {}
        """Of each unit the round of which it got a board last."""
        self.written_at: Millis | None = None

    def is_due(self, now: Millis) -> bool:
        """Whether the boards of the present round are still to be written, and not tried a moment ago."""
        return now >= self._not_before and bool(self._left(now))

    def write(self, standing: Standing, now: Millis) -> None:
        """Write the board of each unit that has none of this round. Blocks. Nothing is raised: it is told, and tried again.

        What one unit holds keeps no other one from its board, and no other workstation from its own.
        """
        try:
            self._write_left(standing, Stamp(now, standing.as_of, self._every_ms, self._zone))
        except BadRecipients:
            self._failed("BAD_RECIPIENTS")
        except Unreachable as error:
            self._failed(error.reason)
        except OSError:
            self._failed("NOT_WRITABLE")
        except Exception as fault:  # noqa: BLE001 - a fault of ours: its text may hold a patient, so only its place is told
            self._failed(_fault(fault))
        if self._left(now):
            self._not_before = Millis(now + round(RETRY_S * 1000))
            return
        self.written_at = now
        emit(lines.BOARDS_WRITTEN, source=self.name, count=len(self.units))

    def _left(self, now: Millis) -> list[Unit]:
        """Units that have no board of the present round."""
        return [unit for unit in self.units if self._rounds.get(unit) != now // self._every_ms]

    def _write_left(self, standing: Standing, stamp: Stamp) -> None:
        """Raises what keeps this place from any board."""
        left = self._left(stamp.made_at)
        boards = standing.boards(left, stamp.made_at)
        for unit in left:
            try:
                content = {"html": render_html(boards[unit], stamp), "csv": render_csv(boards[unit], stamp)}
            except Exception as fault:  # noqa: BLE001 - as above, of this unit alone
                self._failed(_fault(fault))
                continue
            self._shelf.put(Board(unit.code, stamp.made_at, content, stamp.as_of))
            self._rounds[unit] = stamp.made_at // self._every_ms

    def _failed(self, reason: str) -> None:
        metrics.BOARDS_FAILED.of(self.name).inc()
        emit(lines.BOARDS_NOT_WRITTEN, source=self.name, reason=reason)


class DowntimeRole:
    """Follows the gate's table and writes boards. Once it runs it needs neither the broker nor the EHR to go on."""

    def __init__(self, process: Process) -> None:
        self._standing = Standing(process.settings.kafka)
        self._workstations = workstations_of(process.settings)
        if process.settings.downtime.key_file is None:
            emit(lines.BOARDS_UNSIGNED)
        self._started = now_ms()
        metrics.BOARD_AGE_SECONDS.of().set_function(partial(_since, lambda: self._standing.as_of))
        for each in self._workstations:
            metrics.BOARDS_WRITTEN_SECONDS.of(each.name).set_function(partial(_since, partial(_written_at, each)))

    def checks(self) -> Mapping[str, Callable[[], bool]]:
        """Ready once everything was read; later the broker may be away."""
        return {"state": lambda: self._standing.is_whole}

    def status(self) -> Any:
        """How old everything is, and what no board shows."""
        covered = {unit for each in self._workstations for unit in each.units}
        units = self._standing.units()
        return {
            "as_of": self._standing.as_of,
            "written_at": {each.name: each.written_at for each in self._workstations},
            "units_without_board": len({unit for unit in units if unit.code} - covered),
            "units_unknown": len(covered - units),
            "beds_without_unit": self._standing.unplaced(),
            "unreadable": self._standing.unreadable,
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop`."""
        following = asyncio.create_task(self._standing.run(stop))
        while not stop.is_set():
            now = now_ms()
            if self._may_write(now):
                for each in self._workstations:
                    if each.is_due(now) and not stop.is_set():
                        await asyncio.to_thread(each.write, self._standing, now_ms())
            if following.done():
                following.result()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), TURN_S)
        await following

    def _may_write(self, now: Millis) -> bool:
        """A board of half of the beds would be worse than the one of before."""
        is_late = now - self._started > PATIENCE_S * 1000
        return self._standing.is_whole and (self._standing.as_of is not None or is_late)


def workstations_of(settings: Settings) -> tuple[Workstation, ...]:
    """Every workstation of the settings."""
    section: DowntimeSettings = settings.downtime
    sign = signer_of(section.key_file, section.key_id) if section.key_file is not None else None
    return tuple(Workstation(name, each, settings, sign) for name, each in section.workstations.items())


def signer_of(key_file: Path, key_id: str) -> Sign:
    """Signs boards by the key that the file holds now: a file that is lost later must not keep boards from a ward.

    Refused where it holds no such key.
    """
    from joserfc.errors import JoseError
    from joserfc.jwk import OKPKey

    from pipeline.formats.boards.signature import SIGNING, sign_board

    try:
        key = OKPKey.import_key(key_file.read_bytes())
    except (OSError, JoseError, ValueError, TypeError, AttributeError):
        key = None
    if key is None or not key.is_private or key.curve_name != SIGNING:
        raise Refused((f"downtime.key_file: {key_file} is no Ed25519 private key: openssl genpkey -algorithm ed25519",))
    return lambda name, content, board: sign_board(name, content, board.made_at, board.as_of, key, key_id)


def _fault(fault: Exception) -> str:
    """A fault of ours as a reason: its type and the line of our code, never its text."""
    return code_of(f"FAULT:{type(fault).__name__}:{where(fault.__traceback__)}")


def _written_at(workstation: Workstation) -> Millis | None:
    return workstation.written_at


def _since(at: Callable[[], Millis | None]) -> float:
    """Seconds since then; -1 for never."""
    return -1.0 if (moment := at()) is None else (now_ms() - moment) / 1000
