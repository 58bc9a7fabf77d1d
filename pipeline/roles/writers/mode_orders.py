"""An operator forces a mode of a destination, or releases it: an order on `modes`, with its entry in the audit log."""

from pipeline import topology
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import ModeOrder
from pipeline.domain.writing.modes import Mode
from pipeline.formats.avro import Codec
from pipeline.kafka.producer import OutRecord
from pipeline.roles.operator_log import operator_chain, publish_at_once
from pipeline.settings.model import Settings


def order_mode(
    settings: Settings, codec: Codec, destination: str, mode: Mode | None, actor: str, reason: str, now: Millis, until: Millis
) -> None:
    """Force a mode until a time, or with None release what is forced. KafkaUnavailable: repeating it is right.

    The newest order of a destination counts. It takes effect at each instance of its writer within a second or two.
    """
    order = ModeOrder(destination=destination, mode=mode.value if mode else None, actor=actor, reason=reason, at=now, until=until)
    detail = {"mode": mode.value, "for_s": str((until - now) // 1000)} if mode else {}
    entry = operator_chain(settings, codec, actor).append(
        at=now,
        actor=actor,
        action="mode.force" if mode else "mode.release",
        subject=destination,
        destination=destination,
        reason=reason,
        detail=detail,
    )
    publish_at_once(settings, [entry, OutRecord(topology.MODES, destination.encode(), codec.encode(order))])
