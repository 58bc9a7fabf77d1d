"""A subscription to patients at a local EHR, as the settings have it."""

from pathlib import Path
from typing import Any, Final

from pipeline.local.ports import HOST
from pipeline.local.servers.ehr import Ehr

SECRET: Final = "a-hook-secret-for-the-tests-of-24-bytes"
TOPIC: Final = "http://sekmet.dev/fhir/SubscriptionTopic/patient-change"


def feed(ehr: Ehr, folder: Path, port: int, name: str, content: str) -> dict[str, Any]:
    """Section of one feed; the file with the secret is made in `folder`."""
    secret = folder / "hook.token"
    secret.touch(mode=0o600)
    secret.write_text(SECRET)
    return {
        "base_url": ehr.base_url,
        "server": "ehr-main",
        "tenant": "demo",
        "facility": "GENERAL",
        "profile": "sekmet-replica",
        "criteria": TOPIC,
        "searches": ["Patient"],
        "content": content,
        "endpoint": f"http://{HOST}:{port}/fhir/{name}",
        "hook_token_file": str(secret),
        "heartbeat_s": 5,
        "poll_s": 5,
    }
