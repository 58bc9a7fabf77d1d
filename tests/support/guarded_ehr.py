"""The EHR with its doors shut: SMART Backend Services or a bearer token, and nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pipeline.destinations.auth.key import Private
from pipeline.local.servers.ehr import Ehr
from tests.support.token_server import CLIENT, jwk

RIGHTS: Final = "system/*.cruds"
STATIC: Final = "a-bearer-token-of-this-test-only"


class GuardedEhr(Ehr):
    """Knows a client for each algorithm, by its key; its tokens live for `lifetime_s`. New keys hold after a restart.

    One client with keys of both kinds would meet a 500: the server tries each key with the assertion's algorithm.
    """

    def __init__(self, folder: Path, keys: Mapping[str, Private], lifetime_s: int = 3600) -> None:
        self.keys = dict(keys)
        self.bearer_tokens = [STATIC]
        self._lifetime_s = lifetime_s
        super().__init__(folder)

    @property
    def token_url(self) -> str:
        """Its token endpoint."""
        return self.base_url.removesuffix("/fhir") + "/auth/token"

    def _server_settings(self) -> dict[str, object]:
        guard = {
            "types": ["smart", "bearer"],
            "tokens": self.bearer_tokens,
            "smart_clients": [
                {"client_id": f"{CLIENT}-{algorithm}", "jwks": {"keys": [jwk(key, private=False)]}, "scopes": RIGHTS}
                for algorithm, key in self.keys.items()
            ],
            "token_lifetime": self._lifetime_s,
        }
        return super()._server_settings() | {"server_auth": guard}
