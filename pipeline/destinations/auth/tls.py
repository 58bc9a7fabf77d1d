"""TLS to a server whose authority, and our certificate for it, are replaced while we run."""

import ssl
import time
from collections.abc import Callable
from pathlib import Path

from cryptography import x509

from pipeline.destinations.auth.credentials import News, Observe
from pipeline.destinations.auth.files import WatchedFiles


class TlsUnusable(Exception):
    """The files make no TLS context, for example because the certificate isn't the key's. Its text holds nothing of them."""


class TlsFiles:
    """A context for new connections. One that was handed out stays as it is: what is under way over it goes on.

    New files that don't fit together, as in the midst of a rotation, leave the last context in use; they are tried again
    when they change again. TlsUnusable where they are unusable from the first. `certificate_ends_at_s` is when the
    certificate in use ends, in seconds of the epoch; None without one.
    """

    def __init__(
        self,
        ca_file: Path | None,
        cert_file: Path | None,
        key_file: Path | None,
        observe: Observe,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ca_file, self._cert_file, self._key_file = ca_file, cert_file, key_file
        self._files = WatchedFiles([path for path in (ca_file, cert_file, key_file) if path is not None], monotonic)
        self._observe = observe
        self._files.changed()
        made = self._made()
        if made is None:
            raise TlsUnusable("the files don't make a TLS context")
        self._context, self.certificate_ends_at_s = made

    def context(self) -> ssl.SSLContext:
        """For the next connection."""
        contents = self._files.changed()
        if contents is None:
            return self._context
        made = self._made() if contents else None
        if made is None:
            self._observe(News.TLS_UNUSABLE)
        elif self._files.is_still(contents):  # else some of it is of before the change: next time
            self._context, self.certificate_ends_at_s = made
            self._observe(News.TLS_ROTATED)
        return self._context

    def _made(self) -> tuple[ssl.SSLContext, float | None] | None:
        ends_at_s = None
        try:
            context = ssl.create_default_context(cafile=str(self._ca_file) if self._ca_file else None)
            if self._cert_file is not None:
                # A password, or OpenSSL would ask the terminal for that of an encrypted key, and wait.
                context.load_cert_chain(self._cert_file, self._key_file, password="")
                ours = x509.load_pem_x509_certificates(self._cert_file.read_bytes())[0]
                ends_at_s = ours.not_valid_after_utc.timestamp()
        except (OSError, ValueError):  # ssl.SSLError is an OSError
            return None
        return context, ends_at_s
