"""A whole pipeline for integration tests: under a prefix of its own, spoken to as its senders and its operators do."""

import concurrent.futures
import itertools
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from pipeline.domain.identifiers import Millis
from pipeline.formats.avro import Codec, Record
from pipeline.kafka import admin
from pipeline.kafka.client import Message
from pipeline.kafka.reader import read_topic
from pipeline.local.ports import HOST
from pipeline.local.stack import Stack, Target
from pipeline.roles.process import codec_of, specs_of

CODEC: Final = Codec.shipped()
ANSWER_S: Final = 60.0
"""Bound of what takes a second or two on an idle machine."""
GONE_S: Final = 10.0
"""Bound of an answer that a broker on its way out may never give."""
TERM_S: Final = 20.0
"""A role is gone this long after SIGTERM."""
PREFIXES: Final = (f"s{time.time_ns():x}-{number}." for number in itertools.count())


def stack_at(folder: Path, bootstrap: str, *targets: Target, overrides: Mapping[str, Any] | None = None) -> Stack:
    """Settings under a prefix that nobody else has, with the topics made; no role runs yet."""
    stack = Stack(folder, bootstrap, targets, prefix=next(PREFIXES), overrides=overrides or {})
    stack.write_settings()
    apply_topics(stack)
    return stack


def apply_topics(stack: Stack) -> None:
    """What `surgeline topics apply` does, without a process of its own; KafkaUnavailable where the broker is not ready."""
    settings = stack.settings
    now = Millis(time.time_ns() // 1_000_000)
    applied = admin.apply(settings.kafka, specs_of(settings), codec_of(settings), "operator:tests", now)
    assert applied.refused == ()


@contextmanager
def stopped_at_end(stack: Stack) -> Iterator[Stack]:
    """End what still runs, and take its topics away."""
    try:
        yield stack
    finally:
        for child in stack.roles.values():
            child.kill()
        remove_topics(stack)


def remove_topics(stack: Stack) -> None:
    """Some 250 partitions: left there, each later test would be slower by what its broker and its clients have to know of them.
    A broker that is away keeps them."""
    if not stack.prefix:
        return  # everybody's
    try:
        client = AdminClient({**stack.settings.kafka.client_config(), "log_level": 0})
        names = [name for name in client.list_topics(timeout=GONE_S).topics if name.startswith(stack.prefix)]
        removed = client.delete_topics(names, operation_timeout=0, request_timeout=GONE_S) if names else {}
        for answer in removed.values():
            answer.result(GONE_S)
    except (KafkaException, concurrent.futures.TimeoutError):
        return


def surgeline(
    stack: Stack, *arguments: str, environment: Mapping[str, str] | None = None, timeout_s: float = ANSWER_S * 2
) -> "subprocess.CompletedProcess[str]":
    """Run the command to its end, whatever its exit code."""
    program = str(Path(sys.executable).with_name("surgeline"))
    known = {**os.environ, "SURGELINE_CONFIG": str(stack.settings_file), "COLUMNS": "200", **(environment or {})}
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=timeout_s, env=known, check=False)


def post(
    stack: Stack, body: object, key: str, *, token: str | None = None, path: str = "/v1/events"
) -> tuple[int, dict[str, Any]]:
    """Status and body of a POST; `body` as bytes goes as it is. Status 0 where no answer came."""
    request = urllib.request.Request(
        stack.http_url + path,
        data=body if isinstance(body, bytes) else json.dumps(body).encode(),
        headers={
            "Authorization": f"Bearer {stack.token if token is None else token}",
            "Content-Type": "application/json",
            "Idempotency-Key": key,
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, json.loads(refused.read() or b"{}")
    except OSError:
        return 0, {}


def send_hl7(stack: Stack, message: bytes) -> bytes:
    """The acknowledgement of one message on a connection of its own; empty where none came."""
    with socket.create_connection((HOST, stack.mllp_port), timeout=ANSWER_S) as connection:
        connection.sendall(b"\x0b" + message + b"\x1c\r")
        answer = b""
        try:
            while not answer.endswith(b"\x1c\r") and (part := connection.recv(65_536)):
                answer += part
        except OSError:
            return answer
        return answer


def health(stack: Stack, name: str, path: str) -> tuple[int, str]:
    """What a role's health port says; status 0 where nobody answers."""
    try:
        with urllib.request.urlopen(f"http://{HOST}:{stack.health_ports[name]}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()
    except OSError:
        return 0, ""


def messages(stack: Stack, topic: str) -> list[Message]:
    """Every record of a topic."""
    return list(read_topic(stack.settings.kafka, topic))


def records(stack: Stack, topic: str) -> list[Record]:
    """Every record of a topic, decoded."""
    return [CODEC.decode(message.value) for message in messages(stack, topic) if message.value is not None]
