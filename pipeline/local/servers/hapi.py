"""A HAPI FHIR JPA server in the part of the EHR: a second server, of other origin and other ways than `ehr.py`'s.

Its ways, met here and in hospitals: a stale If-Match is refused with 409 and not 412; a PUT that changes nothing makes no
version; searches may be answered from a cache of the last minute; a subscription notification counts as delivered only
after 204, or 200 with a Bundle, and anything else is sent again; it counts notifications in memory.
"""

import http.client
import sys
from pathlib import Path
from typing import Final, Literal

import msgspec

from pipeline.local.errors import LocalPlatformError
from pipeline.local.ports import HOST, free_port, is_listening
from pipeline.local.servers.jars import HAPI, Tell, cache_folder, class_path, compiled, java
from pipeline.local.servers.server import Server

SOURCE: Final = Path(__file__).with_name("java") / "HapiServer.java"
PROBE_TIMEOUT_S: Final = 60.0
"""The first capability statement takes it seconds."""

JVM_OPTIONS: Final = (
    "-Xms256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",  # half of its start is compiling: the quick compiler alone is ready sooner
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)

FhirVersion = Literal["R4", "R4B", "R5"]
HEAP: Final[dict[FhirVersion, str]] = {"R4": "-Xmx768m", "R4B": "-Xmx768m", "R5": "-Xmx1200m"}
"""R5 starts in a third of the time with half as much again: its definitions fill the smaller heap."""


def tell_standard_error(line: str) -> None:
    """Show what a first start waits for."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


class Settled(msgspec.Struct, frozen=True):
    """What stays the same over restarts on one folder."""

    port: int
    version: FhirVersion


class Hapi(Server):
    """One HAPI server. rest-hook subscriptions are on, classic and by topic.

    Killed, it keeps what it had answered but not the notifications under way: it queues them in memory.
    """

    name = "HAPI FHIR"
    log_name = "ehr.log"
    start_timeout_s = 240
    stop_timeout_s = 20

    def __init__(
        self,
        folder: Path,
        port: int | None = None,
        version: FhirVersion = "R4",
        cache: Path | None = None,
        tell: Tell = tell_standard_error,
    ) -> None:
        """`port` None means the folder's port of before, else a free one; `tell` hears what a first start waits for.

        LocalPlatformError if the folder holds data of another version.
        """
        super().__init__(folder)
        self._cache = cache or cache_folder()
        self._tell = tell
        self._settled = self._settle(port, version)

    @property
    def port(self) -> int:
        """Port of its FHIR base."""
        return self._settled.port

    @property
    def base_url(self) -> str:
        """FHIR base, without a slash at its end."""
        return f"http://{HOST}:{self._settled.port}/fhir"

    @property
    def version(self) -> FhirVersion:
        """FHIR version that it speaks."""
        return self._settled.version

    def read_topics(self) -> None:
        """Make it know new subscription topics now; by itself it reads them once a minute."""
        if self._ask("POST", "/topics", PROBE_TIMEOUT_S) != 204:
            raise LocalPlatformError("HAPI FHIR did not read its subscription topics")

    def _settle(self, port: int | None, version: FhirVersion) -> Settled:
        known = self._folder / "settled.json"
        if not known.exists():
            return Settled(port or free_port(), version)
        before = msgspec.json.decode(known.read_bytes(), type=Settled)
        if before.version != version:
            raise LocalPlatformError(f"{self._folder} holds the data of a server of FHIR {before.version}, not {version}")
        return Settled(port or before.port, version)

    def _command(self) -> list[str]:
        libraries = class_path(HAPI, self._cache, self._tell)
        server = compiled(SOURCE, libraries, self._cache, self._tell)
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "settled.json").write_bytes(msgspec.json.encode(self._settled))
        arguments = [self._settled.version, str(self._settled.port), str(self._folder / "data" / "ehr")]
        return [java(), *JVM_OPTIONS, HEAP[self._settled.version], "-cp", f"{server}:{libraries}", SOURCE.stem, *arguments]

    def _answers(self) -> bool:
        return is_listening(self._settled.port) and self._ask("GET", "/fhir/metadata", PROBE_TIMEOUT_S) == 200

    def _ask(self, method: str, path: str, timeout_s: float) -> int | None:
        connection = http.client.HTTPConnection(HOST, self._settled.port, timeout=timeout_s)
        try:
            connection.request(method, path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
