"""A partner's prefix in object storage that speaks S3: BUCKET/PREFIX/ROOM/NAME.

An object appears whole or not at all, its time of change is the server's own, and no sender can set it. There is no rename:
a file is moved by a copy, which is compared, and a removal. Between looking and removing there is a moment in which a sender
that does not wait for its acknowledgement could put other content under the same name; versions of the bucket keep that.
Who serves the prefix is settled by writes on condition (If-None-Match, If-Match), behind a lease.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, cast

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from pipeline.carriers.lease import Lease
from pipeline.carriers.protocol import MAX_LINK_S, READ_BYTES, Found, NotAllowed, Stamp, Unreachable, checked
from pipeline.domain.identifiers import Millis
from pipeline.settings.sections.files import FilePlace

if TYPE_CHECKING:
    from obstore import GetResult, ObjectMeta
    from obstore.store import S3Config

LOCK: Final = ".surgeline.lock"
STEP_S: Final = 60.0
"""Longest time of one request, or without a byte of an answer."""
CONNECT_S: Final = 10.0
RETRIES: Final = 2
"""How often the library asks again by itself; then the caller waits."""
RETRIED_S: Final = 20.0


@dataclass(frozen=True, slots=True, repr=False)
class Bucket:
    """Where the prefix is, and what opens it. Credentials are asked when they are used: they can be replaced while we run."""

    bucket: str
    prefix: str
    region: str
    endpoint: str | None
    access_key_id: str
    secret: Callable[[], str]
    token: Callable[[], str] | None = None
    valid_until: Millis | None = None


class ObjectCarrier:
    """See `Carrier`."""

    scheme: ClassVar[str] = "s3"

    def __init__(self, bucket: Bucket, owner: str, clock: Callable[[], Millis] | None = None) -> None:
        self._bucket = bucket
        self._clock = clock or _now
        self._opened: tuple[tuple[str, str | None], S3Store] | None = None
        self._lock = _LockObject(self)
        self._lease = Lease(self._lock, owner)

    @classmethod
    def of(cls, place: FilePlace, owner: str) -> Self:
        """The carrier of a place whose settings were found right."""
        access, url = place.objects, place.address
        assert access is not None
        assert url is not None
        token, until = access.token_file, access.valid_until
        bucket = Bucket(
            bucket=url.netloc,
            prefix=url.path.strip("/"),
            region=access.region,
            endpoint=access.endpoint,
            access_key_id=access.access_key_id,
            secret=lambda: access.secret_key_file.read_text().strip(),
            token=None if token is None else lambda: token.read_text().strip(),
            valid_until=None if until is None else Millis(round(until.timestamp() * 1000)),
        )
        return cls(bucket, owner)

    def hold(self) -> bool:
        """See `Carrier`."""
        return self._lease.hold()

    def let_go(self) -> None:
        """See `Carrier`."""
        self._lease.let_go()

    def found(self, room: str, begins: str = "") -> Iterator[Found]:
        """See `Carrier`. What lies deeper than a room is not looked at."""
        at = f"{self._path(room)}/"
        with _told():
            listed = obstore.list_with_delimiter(self.store(), at)["objects"]
        for each in listed:
            name = each["path"].removeprefix(at)
            if name and "/" not in name and name.startswith(begins):
                yield Found(name, each["size"], self._since(each), _stamp(each))

    def _since(self, meta: "ObjectMeta") -> Millis:
        return Millis(max(0, round(meta["last_modified"].timestamp() * 1000) - self._lock.ahead_ms))

    def stamp(self, room: str, name: str) -> Stamp | None:
        """See `Carrier`: the server's tag of the content, and its length."""
        found = self.head(self._path(room, name))
        return None if found is None else _stamp(found)

    def head(self, path: str) -> "ObjectMeta | None":
        """What the server knows of an object."""
        try:
            with _told():
                return obstore.head(self.store(), path)
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def open(self, room: str, name: str) -> Iterator["_Reader"]:
        """See `Carrier`. All that is read is of one content: what replaces it is another object."""
        with _told():
            answer = obstore.get(self.store(), self._path(room, name))
        yield _Reader(answer)

    def put(self, room: str, name: str, content: bytes | Path) -> None:
        """See `Carrier`."""
        with _told():
            obstore.put(self.store(), self._path(room, name), content)

    def move(self, room: str, name: str, to_room: str, to_name: str, stamp: Stamp) -> bool:
        """See `Carrier`. A crash between copy and removal leaves both: it is moved again, under another name."""
        source, target = self._path(room, name), self._path(to_room, to_name)
        if self.stamp(room, name) != stamp:
            return False
        try:
            with _told():
                obstore.copy(self.store(), source, target)
        except FileNotFoundError:
            return False
        if self.stamp(room, name) != stamp:
            self.remove(to_room, to_name)
            return False
        self.remove(room, name)
        return True

    def remove(self, room: str, name: str) -> None:
        """See `Carrier`."""
        with contextlib.suppress(FileNotFoundError), _told():
            obstore.delete(self.store(), self._path(room, name))

    def link(self, room: str, name: str, lifetime_s: float) -> str | None:
        """See `Carrier`: an address signed for one object and one method (AWS signature version 4, query form)."""
        with _told():
            return obstore.sign(self.store(), "GET", self._path(room, name), timedelta(seconds=min(lifetime_s, MAX_LINK_S)))

    def store(self) -> S3Store:
        """The bucket, by the credentials that hold now; `NotAllowed` once they are past their time."""
        bucket = self._bucket
        if bucket.valid_until is not None and self._clock() > bucket.valid_until:
            raise NotAllowed("KEY_EXPIRED")
        try:
            secrets = bucket.secret(), bucket.token() if bucket.token is not None else None
        except OSError:
            raise NotAllowed("KEY_UNREADABLE") from None
        if self._opened is None or self._opened[0] != secrets:
            self._opened = (secrets, _store(bucket, *secrets))
        return self._opened[1]

    def _path(self, room: str, name: str | None = None) -> str:
        below = [checked(each) for each in (room, name) if each is not None]
        return "/".join([self._bucket.prefix, *below])

    def lock_path(self) -> str:
        """Where the lock is: beside the rooms."""
        return self._path(LOCK)

    def clock(self) -> Millis:
        """Our clock."""
        return self._clock()


class _Reader:
    """See `Readable`."""

    def __init__(self, answer: "GetResult") -> None:
        self._pieces = iter(answer.stream(min_chunk_size=READ_BYTES))
        self._left = answer.meta["size"]
        self._held = b""

    def read(self, size: int = -1) -> bytes:
        """See `Readable`."""
        if not self._held and self._left > 0:
            with _told():
                self._held = bytes(next(self._pieces, b""))
            if not self._held:
                raise Unreachable  # the answer ended before the object did
            self._left -= len(self._held)
        given = self._held if size < 0 else self._held[:size]
        self._held = self._held[len(given) :]
        return given


class _LockObject:
    """See `Cell`: an object that is written on condition. It also tells what time it is at the server."""

    def __init__(self, carrier: ObjectCarrier) -> None:
        self._carrier = carrier
        self._tags: dict[bytes, str | None] = {}
        self.ahead_ms = 0
        """By how much the server's clock is ahead of ours, to a second."""

    def read(self) -> bytes | None:
        """See `Cell`."""
        try:
            with _told():
                answer = obstore.get(self._carrier.store(), self._carrier.lock_path())
                content = bytes(answer.bytes())
        except FileNotFoundError:
            return None
        self._tags = {content: answer.meta["e_tag"]}
        return content

    def create(self, content: bytes) -> bool:
        """See `Cell`."""
        return self._write(content, "create")

    def replace(self, content: bytes, before: bytes) -> bool:
        """See `Cell`. A server that gives no tags (ETag) can't be asked to write on condition, and must not be served from."""
        tag = self._tags.get(before)
        if tag is None and self.read() != before:
            return False
        if tag is None and (tag := self._tags.get(before)) is None:
            raise Unreachable("NO_TAGS")
        return self._write(content, {"e_tag": tag})

    def _write(self, content: bytes, mode: Any) -> bool:
        carrier = self._carrier
        try:
            with _told():
                written = obstore.put(carrier.store(), carrier.lock_path(), content, mode=mode, use_multipart=False)
        except Unreachable as failed:
            if isinstance(failed.__context__, (AlreadyExistsError, PreconditionError)):
                return False
            raise
        except FileNotFoundError:  # what was to be replaced is gone
            return False
        self._tags = {content: written["e_tag"]}
        if (found := carrier.head(carrier.lock_path())) is not None:
            self.ahead_ms = round(found["last_modified"].timestamp() * 1000) - carrier.clock()
        return True

    def remove(self, before: bytes) -> None:
        """See `Cell`; there is no removal on condition: it is looked at first."""
        if self.read() == before:
            with contextlib.suppress(FileNotFoundError), _told():
                obstore.delete(self._carrier.store(), self._carrier.lock_path())


def _store(bucket: Bucket, secret: str, token: str | None) -> S3Store:
    config: dict[str, Any] = {"access_key_id": bucket.access_key_id, "secret_access_key": secret, "region": bucket.region}
    if bucket.endpoint is not None:
        config["endpoint"] = bucket.endpoint
    if token is not None:
        config["session_token"] = token
    return S3Store(
        bucket.bucket,
        config=cast("S3Config", config),
        client_options={
            "allow_http": (bucket.endpoint or "").startswith("http://"),
            "connect_timeout": timedelta(seconds=CONNECT_S),
            "timeout": timedelta(seconds=STEP_S),
        },
        retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRIED_S)},
    )


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What the library raises, as `Carrier` says; its texts name objects and what the server said."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError from None
    except (PermissionDeniedError, UnauthenticatedError):
        raise NotAllowed("KEY_REFUSED") from None
    except (BaseError, OSError):
        raise Unreachable from None


def _stamp(meta: "ObjectMeta") -> Stamp:
    return meta["e_tag"] or str(meta["last_modified"].timestamp()), meta["size"]


def _now() -> Millis:
    return Millis(time.time_ns() // 1_000_000)
