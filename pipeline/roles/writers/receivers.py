"""Receivers of HL7 v2 from settings."""

import time
from collections.abc import Callable

from pipeline.destinations.auth.tls import TlsFiles, TlsUnusable
from pipeline.destinations.hl7v2.destination import Hl7v2Destination
from pipeline.destinations.hl7v2.mllp_client import News as LineNews
from pipeline.destinations.protocol import Ambiguous, Confirmed, Retry, always
from pipeline.destinations.protocol import Refused as TurnedDown
from pipeline.formats.hl7v2.out_messages import Letter
from pipeline.ops import metrics
from pipeline.roles.process import Refused
from pipeline.roles.writers.destinations import teller
from pipeline.roles.writers.profiles import out_profile_for
from pipeline.settings.sections.workers import Hl7OutSettings


class Timed(Hl7v2Destination):
    """A receiver whose answers are timed, as those of other destinations are."""

    async def send(self, letter: Letter, may_go: Callable[[], bool] = always) -> Confirmed | TurnedDown | Retry | Ambiguous:
        """See `Hl7v2Destination.send`; the time for a connection counts as well."""
        began_s = time.monotonic()
        try:
            return await super().send(letter, may_go)
        finally:
            metrics.WRITER_REQUEST_SECONDS.of(self.name, "send").observe(time.monotonic() - began_s)


def receiver_of(name: str, section: Hl7OutSettings) -> Hl7v2Destination:
    """The destination that a section describes; Refused as `out_profile_for`, or where TLS can't be had."""
    profile = out_profile_for(name, section)
    tls = None
    if section.tls:
        try:
            files = TlsFiles(section.ca_file, section.cert_file, section.key_file, teller(name))
        except TlsUnusable:
            raise Refused(
                [f"hl7_out.{name}: ca_file, cert_file, key_file make no TLS. All PEM? Is it the certificate's own key?"]
            ) from None
        if files.certificate_ends_at_s is not None:
            metrics.CERTIFICATE_ENDS.of(name).set_function(lambda: files.certificate_ends_at_s or 0.0)
        tls = files.context

    def observe(news: LineNews) -> None:
        metrics.LINE_NEWS.of(name, news.value).inc()

    return Timed(name, section.host, section.port, profile, tls, observe)
