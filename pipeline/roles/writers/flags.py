"""The flags that a writer obeys: how far it may write, read anew when their file changes, each flip in the audit log.

Without a file everything is written. A file that is broken never gets into force: the last good one stays, also over a
restart, since each good one is kept beside the writer's table.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, Protocol

from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Accepted
from pipeline.domain.writing.rollout import FULL, Facts, Flip, Rule, Scope, flips
from pipeline.ops import log_catalogue as lines
from pipeline.ops import metrics
from pipeline.ops.flag_file import MAX_BYTES, BadFlags, FlagFile, parse_flags
from pipeline.ops.logs import emit
from pipeline.ops.shadow import scopes
from pipeline.roles.process import Refused, now_ms
from pipeline.roles.writers.profiles import types_at
from pipeline.settings.model import Settings

POLL_S: Final = 1.0
"""Time between two looks at the file: a flip takes effect within two of them."""

KEPT: Final = "flags.last-good"
"""Name of the copy, in the writer's own folder."""

UNREADABLE: Final = "unreadable"
NO_FILE: Final = "flags:none"


def rules_of(settings: Settings, file: Path | None, tenant: str) -> dict[str, dict[EntityType, Rule]]:
    """What a file says of one tenant, for each destination; Refused with what is wrong. Without a file all is FULL."""
    try:
        flags = parse_flags(_read(file), settings.destinations) if file is not None else None
    except BadFlags as error:
        raise Refused(error.problems) from None
    except OSError:
        raise Refused([f"there is no readable file {file}"]) from None
    return {
        name: {scope.entity_type: FULL if flags is None else flags.rule(name, scope) for scope in scopes(tenant, types)}
        for name, types in sorted(types_at(settings).items())
    }


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


class Notes(Protocol):
    """Where a flip becomes durable; see `OutcomeLedger.note`."""

    async def note(
        self, action: str, subject: str, destination: str, cause: str, figures: dict[str, str], at: Millis, actor: str
    ) -> None: ...


class Flags:
    """Rollout at one destination; see `pipeline.stream.writing.shadows.Rollout`."""

    def __init__(
        self,
        file: Path | None,
        folder: Path,
        destination: str,
        destinations: Sequence[str],
        scopes: Iterable[Scope],
        clock: Callable[[], Millis] = now_ms,
    ) -> None:
        """`destinations` are all that flags may name, `scopes` those to be told from the start. Refused without a good file."""
        self._file = file
        self._kept = folder / KEPT
        self._destination = destination
        self._destinations = tuple(destinations)
        self._clock = clock
        self._seen: bytes | None = None
        self._judged: bytes | None = None
        self._before = self._last_good()
        self._flags: FlagFile | None = self._first(file) if file is not None else None
        if self._flags is not None:
            self._flags.put_into_force()
        self._rules: dict[tuple[str, EntityType], Rule] = {}
        self._next: FlagFile | None = None
        self._since = clock()
        for scope in scopes:
            self._rule(scope.tenant, scope.entity_type)

    # -- asked by the delivery

    @property
    def since(self) -> Millis:
        """Since when these flags are in force here."""
        return self._since

    def may_write(self, accepted: Accepted) -> bool:
        """Whether this state is written. While a change is on its way into the audit log, only what both allow."""
        allowed = self._rule(accepted.tenant, accepted.entity_type).allows(accepted)
        if not allowed or self._next is None:
            return allowed
        return self._next.rule(self._destination, Scope(accepted.tenant, accepted.entity_type)).allows(accepted)

    def lets_write(self, facts: Facts) -> bool:
        """As `may_write` by the flags in force, of an entity whose state is not at hand."""
        return self._rule(facts.tenant, facts.entity_type).holds_for(facts)

    def _rule(self, tenant: str, entity_type: EntityType) -> Rule:
        """Kept until the file changes; at most one for each tenant and entity type."""
        rule = self._rules.get((tenant, entity_type))
        if rule is None:
            scope = Scope(tenant, entity_type)
            rule = FULL if self._flags is None else self._flags.rule_in_force(self._destination, scope)
            self._rules[tenant, entity_type] = rule
        return rule

    # -- the file

    async def follow(self, notes: Notes, flipped: Callable[[], Awaitable[int]]) -> None:
        """Tell what is in force, then put each change of the file into force, until cancelled.

        `flipped` is awaited after each change; it returns how many entities are due again.
        """
        await self._tell_start(notes)
        while self._file is not None:
            await asyncio.sleep(POLL_S)
            found = await asyncio.to_thread(self._changed, self._file)
            if found is not None:
                await self._replace(found, notes, flipped)

    async def _tell_start(self, notes: Notes) -> None:
        """What is in force, and each flip against what was in force here before: somebody may have flipped it meanwhile."""
        shown = {f"{tenant}/{entity_type.value}": rule.shown for (tenant, entity_type), rule in sorted(self._rules.items())}
        await notes.note(
            "rollout.start",
            self._destination,
            self._destination,
            "start",
            shown | _digest_of(self._flags),
            self._clock(),
            _actor_of(self._flags),
        )
        after = {Scope(*name): rule for name, rule in self._rules.items()}
        if self._before is not None:
            before = {scope: self._before.rule(self._destination, scope) for scope in after}
            await self._tell(flips(before, after), self._flags, notes)
        await asyncio.to_thread(self._keep, self._flags)
        emit(lines.FLAGS_IN_FORCE, destination=self._destination, version=_actor_of(self._flags), count=0)

    async def _replace(self, found: FlagFile, notes: Notes, flipped: Callable[[], Awaitable[int]]) -> None:
        """First durable, then in force: but what the new flags forbid stops at once."""
        self._next = found
        before = {Scope(*name): rule for name, rule in self._rules.items()}
        after = {scope: found.rule(self._destination, scope) for scope in before}
        await self._tell(flips(before, after), found, notes)
        await asyncio.to_thread(self._keep, found)
        self._flags = found
        found.put_into_force()
        # Asked anew: a tenant may have come up in the meantime.
        self._rules = {}
        for tenant, entity_type in before:
            self._rule(tenant, entity_type)
        self._since = self._clock()
        self._next = None
        due = await flipped()
        emit(lines.FLAGS_IN_FORCE, destination=self._destination, version=found.actor, count=due)

    async def _tell(self, flipped: Iterable[Flip], found: FlagFile | None, notes: Notes) -> None:
        for flip in flipped:
            cause = f"{flip.before.mode.value} to {flip.after.mode.value}"
            scope = f"{flip.scope.tenant}/{flip.scope.entity_type.value}"
            figures = {"from": flip.before.shown, "to": flip.after.shown, **_digest_of(found)}
            await notes.note("rollout.flipped", scope, self._destination, cause, figures, self._clock(), _actor_of(found))
            metrics.FLAGS_FLIPPED.of(self._destination).inc()

    def _changed(self, file: Path) -> FlagFile | None:
        """The file, if it is another one, good, and the same at two looks: one that is being written is no word yet."""
        try:
            data = _read(file)
        except OSError:
            data = b""
        before, self._seen = self._seen, data
        if data != before or data == self._judged:
            return None
        self._judged = data
        try:
            found = self._parsed(data)
        except BadFlags as error:
            self._refuse(error)
            return None
        in_force = self._flags
        return found if in_force is None or found.digest != in_force.digest else None

    def _first(self, file: Path) -> FlagFile:
        """The file; where it is broken the one that was in force here last."""
        try:
            data = _read(file)
            found = self._parsed(data)
        except (OSError, BadFlags) as error:
            bad = error if isinstance(error, BadFlags) else BadFlags(UNREADABLE, ["the file can't be read"])
            if self._before is None:
                raise Refused([f"flags_file: {problem}" for problem in bad.problems]) from None
            self._refuse(bad)
            return self._before
        self._seen = self._judged = data
        return found

    def _last_good(self) -> FlagFile | None:
        """What was in force here last; None where nothing was, or where its destinations are no longer these."""
        try:
            return parse_flags(_read(self._kept), self._destinations)
        except (OSError, BadFlags):
            return None

    def _parsed(self, data: bytes) -> FlagFile:
        if not data:
            raise BadFlags(UNREADABLE, ["the file is empty or can't be read"])
        found = parse_flags(data, self._destinations)
        metrics.FLAGS_BROKEN.of(self._destination).set(0)
        return found

    def _refuse(self, bad: BadFlags) -> None:
        metrics.FLAGS_BROKEN.of(self._destination).set(1)
        emit(lines.FLAGS_REFUSED, destination=self._destination, cause=bad.cause, count=len(bad.problems))

    def _keep(self, flags: FlagFile | None) -> None:
        """A whole copy, or the one before, never half of one; none where no flags are configured any more."""
        if flags is None:
            self._kept.unlink(missing_ok=True)
            return
        self._kept.parent.mkdir(parents=True, exist_ok=True)
        new = self._kept.with_name(f"{KEPT}.new")
        new.write_bytes(flags.data)
        os.replace(new, self._kept)


def _actor_of(flags: FlagFile | None) -> str:
    return flags.actor if flags is not None else NO_FILE


def _digest_of(flags: FlagFile | None) -> dict[str, str]:
    return {"digest": flags.digest} if flags is not None else {}
