"""The shipped policy, for tests."""

from functools import cache
from pathlib import Path

import yaml

import pipeline
from pipeline.domain.judging.policy import Policy, policy_from


@cache
def shipped_policy() -> Policy:
    folder = Path(pipeline.__file__).parent / "policies"
    ownership, lanes = (yaml.safe_load((folder / name).read_text()) for name in ("ownership.yaml", "lanes.yaml"))
    return policy_from(ownership, lanes)
