"""The API keeps what its OpenAPI document says, for generated requests: valid ones, and ones that break a rule."""

import os
from collections.abc import Sequence
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.config import SchemathesisConfig

from pipeline.domain.event import Event
from pipeline.sources.protocol import RawMessage, Receipted
from tests.support.http_fakes import TOKEN, MemorySink, application

EXAMPLES = int(os.environ.get("SURGELINE_CONTRACT_EXAMPLES", "60"))
SEED = int(os.environ.get("SURGELINE_CONTRACT_SEED", "20260131"))

# A batch answers 207 to items that break a rule: that is how it refuses them.
CONFIG = SchemathesisConfig.from_dict(
    {
        "seed": SEED,
        "auth": {"openapi": {"token": {"bearer": TOKEN}}},
        "checks": {"negative_data_rejection": {"expected-statuses": [207, 400, 401, 403, 404, 405, 406, 413, 415, 422, 428]}},
    }
)


class ForgetfulSink(MemorySink):
    """Takes every request as new: generated requests use one key for many bodies."""

    async def accept(self, raw: RawMessage, events: Sequence[Event], answer: bytes) -> Receipted:
        self.answers.clear()
        return await super().accept(raw, events, answer)


class EverySystem(frozenset[str]):
    """Grants every source system, so that generated events come further than the first check."""

    def __contains__(self, _: object) -> bool:
        return True


APP, _ = application(ForgetfulSink(), source_systems=EverySystem())
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", APP, config=CONFIG)


@SCHEMA.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_as_documented(case: "schemathesis.Case[Any]") -> None:
    print(f"SURGELINE_CONTRACT_SEED={SEED}")  # noqa: T201 - shown with a failure
    case.call_and_validate()
