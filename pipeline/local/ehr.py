"""A FHIR R4 server in the part of the EHR, for people who have none at hand and for the tests."""

import http.client
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import yaml

from pipeline.local.child import Child
from pipeline.local.errors import LocalPlatformError
from pipeline.local.ports import HOST, free_port, refuse_taken

PROBE_TIMEOUT_S: Final = 2.0
SERVE: Final = "from sekmet.cli import app; app()"


class Ehr:
    """One sekmet-fhir with its data in `folder`. It keeps data and port over restarts and never outlives this process.

    Synchronous: from a coroutine, call it by `asyncio.to_thread`.
    """

    def __init__(self, folder: Path, port: int | None = None) -> None:
        """`port` None means the folder's port of before, else a free one."""
        self._folder = folder.absolute()
        self._port = port or _port_of_before(self._settings) or free_port()
        self._child = Child("the EHR", self._command(), self._folder, self.log)

    @property
    def base_url(self) -> str:
        """FHIR base, without a slash at its end."""
        return f"http://{HOST}:{self._port}/fhir"

    @property
    def pid(self) -> int:
        """Process id; LocalPlatformError if it isn't running."""
        return self._child.pid

    @property
    def log(self) -> Path:
        """The server's log."""
        return self._folder / "ehr.log"

    @property
    def _settings(self) -> Path:
        return self._folder / "settings.yaml"

    def start(self, timeout_s: float = 60) -> None:
        """Start and wait until it shows its capability statement."""
        if not self._child.running:
            refuse_taken(self._port, "the EHR")
            self._folder.mkdir(parents=True, exist_ok=True)
            self._settings.write_text(yaml.safe_dump(self._server_settings()))
            self._child.start()
        self._child.wait_until(self._answers, timeout_s)

    def stop(self, timeout_s: float = 10) -> None:
        """Stop in good order, and kill it if that takes longer than `timeout_s`."""
        self._child.stop(timeout_s)

    def kill(self) -> None:
        """SIGKILL."""
        self._child.kill()

    def restart(self, timeout_s: float = 60) -> None:
        """Stop, if it runs, and start again on the same folder and port."""
        self.stop()
        self.start(timeout_s)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _command(self) -> list[str]:
        # By module and not by its script: a script's first line holds a path that a moved environment breaks.
        return [sys.executable, "-c", SERVE, "serve", "-c", str(self._settings), "--host", HOST, "--port", str(self._port)]

    def _server_settings(self) -> dict[str, object]:
        return {
            "base_url": self.base_url,
            "host": HOST,
            "port": self._port,
            "data_dir": str(self._folder / "data"),
            "log_inbound": False,  # its traffic log would slow it down and keep every body
            "simulator": {"enabled": False},  # or it answers requests by itself, as a laboratory would
        }

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=PROBE_TIMEOUT_S)
        try:
            connection.request("GET", "/fhir/metadata")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def _port_of_before(settings: Path) -> int | None:
    if not settings.exists():
        return None
    port = yaml.safe_load(settings.read_text()).get("port")
    if not isinstance(port, int):
        raise LocalPlatformError(f"{settings} names no port")
    return port
