"""What a load is put on: one YAML file. The local stack writes its own; for another cluster a person does.

```yaml
surgeline: surgeline.yaml            # Kafka and the writers, as the roles read them
http: {url: https://surgeline.example, token_file: client.token, ca_file: ca.crt}
mllp: {host: surgeline.example, port: 2575, ca_file: ca.crt, cert_file: us.crt, key_file: us.key}
ehr_faults: ["http://127.0.0.1:9901/faults"]   # control addresses of fault proxies; without any, no slow EHR and no outage
kill: {command: [./kill-one-pod, "{role}"], roles: [gate, http]}   # docs/operating/load-testing.md has one
```
"""

import ssl
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml
from msgspec import Meta

from pipeline.settings.model import Settings
from pipeline.settings.reading import load

Port = Annotated[int, Meta(ge=1, le=65_535)]


class HttpTarget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The HTTP way in. The token is read from its file and stands nowhere else."""

    url: str
    token_file: str
    ca_file: str | None = None


class MllpTarget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The HL7 v2 way in; with TLS where `ca_file` is given."""

    host: str
    port: Port
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


class KillTarget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a role is killed: a command in which `{role}` is replaced. A shape names the kind that a role begins with."""

    command: tuple[str, ...]
    roles: tuple[str, ...]


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything. Paths in it are relative to its own folder.

    `ask_destinations` false: the books are closed without asking what the destinations show, for machines that may not.
    """

    surgeline: str
    http: HttpTarget
    mllp: MllpTarget
    ehr_faults: tuple[str, ...] = ()
    kill: KillTarget | None = None
    ask_destinations: bool = True


class BadTarget(Exception):
    """The file does not say what a load can be put on."""


class Opened:
    """A target with its folder."""

    def __init__(self, file: Path) -> None:
        """BadTarget where the file can't be read or says something else."""
        try:
            self.target = msgspec.convert(yaml.safe_load(file.read_text()), Target)
        except yaml.YAMLError:  # its text quotes the file
            raise BadTarget(f"{file}: it is not YAML") from None
        except (OSError, msgspec.ValidationError) as error:
            raise BadTarget(f"{file}: {error}") from None
        self._folder = file.resolve().parent

    def path(self, name: str) -> Path:
        """A file that it names."""
        return self._folder / name

    def settings(self) -> Settings:
        """The pipeline's settings."""
        return load(self.path(self.target.surgeline))

    def token(self) -> str:
        """The HTTP client's token."""
        return self.path(self.target.http.token_file).read_text().strip()

    def http_tls(self, cafile: str | None = None) -> ssl.SSLContext:
        """Checks the server against the target's `ca_file` alone; without one against `cafile`, which the client brings."""
        ca_file = self.target.http.ca_file
        return ssl.create_default_context(cafile=str(self.path(ca_file)) if ca_file else cafile)

    def mllp_tls(self) -> ssl.SSLContext | None:
        """None where MLLP is spoken in the clear."""
        mllp = self.target.mllp
        if mllp.ca_file is None:
            return None
        context = ssl.create_default_context(cafile=str(self.path(mllp.ca_file)))
        if mllp.cert_file is not None:
            context.load_cert_chain(self.path(mllp.cert_file), self.path(mllp.key_file) if mllp.key_file else None)
        return context


def write(target: Target, file: Path) -> None:
    """As YAML."""
    document: Any = msgspec.to_builtins(target)
    file.write_text(yaml.safe_dump(document, sort_keys=False))
