"""From an accepted state and what the EHR shows, the one request that makes the EHR show it. Pure."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

from pipeline.destinations.protocol import Absent, Current, PendingWrite, Refused, Request, Suppressed
from pipeline.domain.bed import Untellable, code_for
from pipeline.domain.event import Allocation, Bed, Encounter, EntityType
from pipeline.domain.identifiers import NO_REVISION
from pipeline.domain.records import Accepted, Reason
from pipeline.formats.fhir import episode
from pipeline.formats.fhir.codec import encode
from pipeline.formats.fhir.location import with_known_place
from pipeline.formats.fhir.naming import Ident, Naming, query_quoted
from pipeline.formats.fhir.owned import Body, Json, Misshapen, Owned, apply_owned
from pipeline.formats.fhir.profile import OWNER_FIRST, Profile
from pipeline.formats.fhir.resource import ResourceMap, urn_of
from pipeline.formats.fhir.resources import RESOURCES
from pipeline.formats.fhir.revision import Carrier, Mark, carrier_of, is_ours

JSON_TYPE: Final = "application/fhir+json"
MIN_DIGEST_KEY_BYTES: Final = 16
MAX_DIGEST_KEY_BYTES: Final = 64

NOTHING_KNOWN: Final[Mapping[Ident, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Subject:
    """The resource that an accepted state is about."""

    resource: ResourceMap
    ident: Ident
    naming: Naming


@dataclass(frozen=True, slots=True)
class Builder:
    """Builds requests for one EHR. `digest_key` (16 to 64 bytes) keys the digests in the mark and client-made ids."""

    profile: Profile
    digest_key: bytes = field(repr=False)
    carrier: Carrier = field(init=False)
    """Where our revision travels at this EHR."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "carrier", carrier_of(self.profile))
        if not MIN_DIGEST_KEY_BYTES <= len(self.digest_key) <= MAX_DIGEST_KEY_BYTES:
            raise ValueError(f"a digest key has {MIN_DIGEST_KEY_BYTES} to {MAX_DIGEST_KEY_BYTES} bytes")

    def maps(self, entity_type: EntityType) -> bool:
        """Whether the profile lets this entity type out."""
        return entity_type in self.profile.resources and entity_type in RESOURCES

    def under_base(self, entity_type: EntityType, target: str) -> str:
        """`target` below the server's base address: below the resource's own base path, where the profile gives one."""
        resource = self.profile.resources.get(entity_type)
        return "/".join(part for part in (resource.base_path if resource else "", target) if part)

    def subject(self, accepted: Accepted) -> Subject:
        """What `accepted` is about, as this EHR names it."""
        naming = Naming(self.profile, accepted.tenant, accepted.facility)
        ident = naming.entity(accepted.entity_type, accepted.namespace, accepted.entity_id)
        return Subject(RESOURCES[accepted.entity_type], ident, naming)

    def build(
        self, write: PendingWrite, current: Current | Absent, known: Mapping[Ident, str] = NOTHING_KNOWN
    ) -> Request | Suppressed | Refused:
        """The request, or why there is none. A state without a valid FHIR form is refused as invalid.

        `known` has ids of surrounding places that need not be made.

        Nothing is sent only if revision and owned fields both match; an older revision never replaces a newer one.
        """
        accepted = write.accepted
        if not self.maps(accepted.entity_type):
            return Refused(Reason.REFUSED_OTHER)
        if isinstance(current, Current) and (verdict := _by_revision(accepted, current)) is not None:
            return verdict
        if _is_held(self.profile, accepted):
            return Suppressed(Reason.RESERVATION_UNTELLABLE, accepted.revision)
        try:
            return self._create(write, known) if isinstance(current, Absent) else self._update(write, current, known)
        except Misshapen:
            return Refused(Reason.REFUSED_INVALID)

    def agrees(self, accepted: Accepted, current: Current) -> bool:
        """Whether `current` shows this very revision, and in each owned field what the state says.

        Where no revision travels the fields alone have to do.
        """
        told = (current.revision, current.state_hash) == (accepted.revision, accepted.state_hash)
        if not told and self.profile.revision != "none":
            return False
        subject = self.subject(accepted)
        try:
            desired = self._desired(subject, accepted, current.body)
            return self._written(subject, current.body, desired) == self._written(
                subject, apply_owned(current.body, desired), desired
            )
        except Misshapen:
            return False

    def differences(self, accepted: Accepted, current: Current | Absent) -> tuple[str, ...]:
        """Names of the fields whose values at the EHR a write of `accepted` would change, in order; never a value.

        Of an absent resource: all that have a value. None are named for a state without a valid FHIR form.
        """
        subject = self.subject(accepted)
        try:
            if isinstance(current, Absent):
                body, desired = self._first(subject, accepted)
                before: dict[str, Json] = {}
            else:
                body, desired = current.body, self._desired(subject, accepted, current.body)
                before = self._written(subject, body, desired)
            after = self._written(subject, apply_owned(body, desired), desired)
        except Misshapen:
            return ()
        return tuple(sorted(name for name, value in after.items() if value != before.get(name)))

    def mark_in(self, body: Body) -> Mark | None:
        """Our mark in a resource."""
        return self.carrier.read(body)

    def current_of(self, body: Body, etag: str | None) -> Current:
        """A resource as read, with the revision that it carries. Without a fence no version is told: see `fence_of`."""
        mark = self.mark_in(body)
        revision, state_hash = (mark.revision, mark.state_hash) if mark else (NO_REVISION, None)
        return Current(str(body.get("id", "")), self.fence_of(etag), body, revision, state_hash)

    def fence_of(self, etag: str | None) -> str | None:
        """The version that fences the next write; None where none does, so that nobody builds it on what was read before."""
        return etag if self.profile.fence == "if-match" else None

    def _update(self, write: PendingWrite, current: Current, known: Mapping[Ident, str]) -> Request | Suppressed | Refused:
        accepted, subject = write.accepted, self.subject(write.accepted)
        if self.agrees(accepted, current):
            return Suppressed(Reason.ALREADY_THERE, accepted.revision)
        if current.etag is None and self.profile.fence == "if-match":
            return Refused(Reason.REFUSED_OTHER)  # without a version there is no fence, and the profile promises one
        desired = self._desired(subject, accepted, current.body)
        body = self._marked(subject, accepted, current.body, desired, self._ours(subject, current, desired))
        url = f"{subject.resource.resource_type}/{current.remote_id}"
        fence = self.fence_of(current.etag)
        body, entries = _placed(subject, accepted, body, known)
        if entries:
            entry_request: Body = {"method": "PUT", "url": url} | ({"ifMatch": fence} if fence else {})
            return _transaction(write, [*entries, {"fullUrl": _own_urn(subject), "resource": body, "request": entry_request}])
        headers = (("If-Match", fence),) if fence else ()
        return _request(write, "PUT", url, headers, body)

    def _create(self, write: PendingWrite, known: Mapping[Ident, str]) -> Request | Refused:
        accepted, subject = write.accepted, self.subject(write.accepted)
        how: Literal["never", "transaction-if-none-exist", "put-client-id"] = self.profile.resources[accepted.entity_type].create
        if how == "never":
            return Refused(Reason.REFUSED_MISSING)
        start, desired = self._first(subject, accepted)
        made_up = frozenset(field for field, value in _shown(subject, start).items() if _says(value))
        body = self._marked(subject, accepted, start, desired, made_up)
        body, entries = _placed(subject, accepted, body, known)
        if how == "put-client-id":
            return self._put_client_id(write, subject, body, entries)
        request = {"method": "POST", "url": subject.resource.resource_type, "ifNoneExist": _by_identifier(subject.ident)}
        return _transaction(write, [*entries, {"fullUrl": _own_urn(subject), "resource": body, "request": request}])

    def _first(self, subject: Subject, accepted: Accepted) -> tuple[Body, tuple[Owned, ...]]:
        """What a new resource starts as, and what is written into it."""
        start = subject.resource.created(accepted.state, subject.naming)
        every = subject.resource.desired(accepted.state, subject.ident, subject.naming, start)
        fields = self.profile.fields_of(accepted.entity_type) | subject.resource.structural
        return start, tuple(owned for owned in every if owned.field in fields)

    def _put_client_id(self, write: PendingWrite, subject: Subject, body: Body, entries: list[Body]) -> Request:
        resource_type = subject.resource.resource_type
        made = {"resourceType": resource_type, "id": self.client_id(write.accepted)} | body
        url = f"{resource_type}/{made['id']}"
        if not entries:
            return _request(write, "PUT", url, (("If-None-Match", "*"),), made)
        request = {"method": "PUT", "url": url, "ifNoneMatch": "*"}
        return _transaction(write, [*entries, {"fullUrl": _own_urn(subject), "resource": made, "request": request}])

    def client_id(self, accepted: Accepted) -> str:
        """Resource id that says nothing of the entity: a keyed digest of its key."""
        key = accepted.key.encode()
        return "sl-" + hashlib.blake2b(key, key=self.digest_key, digest_size=16, person=b"surgeline-id").hexdigest()

    def _desired(self, subject: Subject, accepted: Accepted, current: Body) -> tuple[Owned, ...]:
        every = subject.resource.desired(accepted.state, subject.ident, subject.naming, current)
        fields = self.profile.fields_of(accepted.entity_type) - self._stated_by_owner(subject, current)
        return tuple(owned for owned in every if owned.field in fields)

    def _stated_by_owner(self, subject: Subject, current: Body) -> frozenset[str]:
        """Fields in which the EHR of record has said, or taken back, what is its own to say first."""
        first = OWNER_FIRST.get(subject.resource.entity_type)
        if self.profile.role != "owner" or first is None:
            return frozenset()
        shown, mark = _shown(subject, current), self.mark_in(current)
        written = mark.written(shown) if mark else frozenset()
        return frozenset(
            field
            for field in first
            if (mark and field in written and not is_ours(mark, field, shown, self.digest_key))
            or (field not in written and _says(shown[field]))
        )

    def _ours(self, subject: Subject, current: Current, desired: tuple[Owned, ...]) -> frozenset[str]:
        """Fields beside those of `desired` that still show what we wrote at some time: the state doesn't speak of them."""
        mark = self.mark_in(current.body)
        others = {field for field, _ in mark.digests} - {owned.field for owned in desired} if mark else set()
        if mark is None or not others or self.carrier.kind == "tag":
            return frozenset()
        shown = _shown(subject, current.body)
        return frozenset(field for field in others if is_ours(mark, field, shown, self.digest_key))

    def _written(self, subject: Subject, body: Body, desired: tuple[Owned, ...]) -> dict[str, Json]:
        fields = {owned.field for owned in desired}
        return {name: value for name, value in _shown(subject, body).items() if name in fields}

    def _marked(
        self, subject: Subject, accepted: Accepted, current: Body, desired: tuple[Owned, ...], ours: frozenset[str]
    ) -> Body:
        """`current` with `desired` and the mark. It speaks of these fields, of those that are `ours` already, and of those
        that show something else now because of them: whatever this write changed is our word, and no news of the EHR's."""
        body = apply_owned(current, desired)
        shown, fields = _shown(subject, body), {owned.field for owned in desired} | ours
        if entangled := subject.resource.entangled:
            before = _shown(subject, current)
            fields |= {name for name in entangled if shown[name] != before[name]}
        written = {name: value for name, value in shown.items() if name in fields}
        carrier = self.carrier
        return carrier.put(body, carrier.mark(accepted.revision, accepted.state_hash, written, shown, self.digest_key))


def _shown(subject: Subject, body: Body) -> dict[str, Json]:
    return subject.resource.shown(body, subject.ident, subject.naming)


def _says(value: Json) -> bool:
    """Whether a field as a resource shows it says anything."""
    return any(map(_says, value)) if isinstance(value, list) else value not in (None, "", False)


def _by_revision(accepted: Accepted, current: Current) -> Suppressed | Refused | None:
    if current.revision > accepted.revision:
        return Suppressed(Reason.NEWER_AT_DESTINATION, current.revision)
    if current.revision == accepted.revision and current.state_hash != accepted.state_hash:
        return Refused(Reason.FORK)
    return None


def _is_held(profile: Profile, accepted: Accepted) -> bool:
    """Whether the bed would be offered although it is promised, because this EHR can't learn of the promise."""
    bed = accepted.state
    if not isinstance(bed, Bed) or "operational_status" not in profile.fields_of(EntityType.BED):
        return False
    named = isinstance(bed.allocation, Allocation) and bed.allocation.encounter is not None
    reaches = profile.reservation == "extension" or (profile.reservation == "pending-location" and named)
    return code_for(bed, reaches) is Untellable.RESERVATION


def _placed(subject: Subject, accepted: Accepted, body: Body, known: Mapping[Ident, str]) -> tuple[Body, list[Body]]:
    """`body`, and what has to be made in the same transaction because `body` refers to it: places, an episode of care."""
    state = accepted.state
    if isinstance(state, Bed) and state.place:
        return with_known_place(body, state.place, subject.naming, known)
    if isinstance(state, Encounter):
        return body, episode.entries_of(state, subject.naming, body)
    return body, []


def _own_urn(subject: Subject) -> str:
    return urn_of(Ident(f"{subject.resource.resource_type}:{subject.ident.system}", subject.ident.value))


def _by_identifier(ident: Ident) -> str:
    return f"identifier={query_quoted(ident.token())}"


def _transaction(write: PendingWrite, entries: list[Body]) -> Request:
    return _request(write, "POST", "", (), {"resourceType": "Bundle", "type": "transaction", "entry": entries})


def _request(write: PendingWrite, method: str, target: str, headers: tuple[tuple[str, str], ...], body: Body) -> Request:
    return Request(write, method, target, (("Content-Type", JSON_TYPE), *headers), body)


def encoded(request: Request) -> bytes:
    """The request's body as it is sent."""
    return encode(request.body)
