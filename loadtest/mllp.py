"""An HL7 v2 sender over a plain socket, for gevent: one connection, one message at a time, as interface engines do."""

import socket
import ssl
from typing import Final

from pipeline.local.demo.drive import END, START, acknowledgement_of

MAX_ANSWER_BYTES: Final = 65_536
CHUNK_BYTES: Final = 4_096


class MllpConnection:
    """Connects when it has something to send, and again after any trouble."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None, answer_s: float) -> None:
        self._host, self._port, self._tls, self._answer_s = host, port, tls, answer_s
        self._socket: socket.socket | None = None

    def exchange(self, message: bytes) -> str:
        """MSA-1 of the answer to a message without its frame. OSError without an answer; then the connection is closed."""
        try:
            connection = self._connected()
            connection.sendall(START + message + END)
            return acknowledgement_of(self._answer(connection))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Safe to repeat."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connected(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection((self._host, self._port), self._answer_s)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                self._socket = self._tls.wrap_socket(self._socket, server_hostname=self._host)
        return self._socket

    def _answer(self, connection: socket.socket) -> bytes:
        """Up to the end of the frame; anything longer than an acknowledgement is none."""
        answer = b""
        while not answer.endswith(END):
            got = connection.recv(CHUNK_BYTES)
            if not got or len(answer) > MAX_ANSWER_BYTES:
                raise ConnectionError("the connection ended before an answer did")
            answer += got
        return answer
