"""A FHIR R4 server in the part of the EHR, for people who have none at hand and for the tests."""

import http.client
import sys
from pathlib import Path
from typing import Final

import yaml

from pipeline.local.errors import LocalPlatformError
from pipeline.local.ports import HOST, free_port
from pipeline.local.servers.server import Server

PROBE_TIMEOUT_S: Final = 2.0
SERVE: Final = "from sekmet.cli import app; app()"


class Ehr(Server):
    """One sekmet-fhir."""

    name = "the EHR"
    log_name = "ehr.log"
    start_timeout_s = 60
    stop_timeout_s = 10

    def __init__(self, folder: Path, port: int | None = None) -> None:
        """`port` None means the folder's port of before, else a free one."""
        super().__init__(folder)
        self._port = port or _port_of_before(self._settings) or free_port()

    @property
    def port(self) -> int:
        """Port of its FHIR base."""
        return self._port

    @property
    def base_url(self) -> str:
        """FHIR base, without a slash at its end."""
        return f"http://{HOST}:{self._port}/fhir"

    @property
    def _settings(self) -> Path:
        return self._folder / "settings.yaml"

    def _command(self) -> list[str]:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._settings.write_text(yaml.safe_dump(self._server_settings()))
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
