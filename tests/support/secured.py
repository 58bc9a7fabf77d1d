"""A Kafka that asks for TLS and a SCRAM login, for tests; certificates are made on the spot."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from pipeline.kafka.access import Access
from pipeline.local.servers.broker import Broker, Ports, server_properties
from tests.support.certificates import Authority

USER, PASSWORD = "surgeline", "a-password-of-this-test-only"
OPERATIONS: Final = {
    "Read": AclOperation.READ,
    "Write": AclOperation.WRITE,
    "Create": AclOperation.CREATE,
    "AlterConfigs": AclOperation.ALTER_CONFIGS,
    "Describe": AclOperation.DESCRIBE,
    "DescribeConfigs": AclOperation.DESCRIBE_CONFIGS,
}


class SecuredBroker(Broker):
    """One listener for its own controller's use in plain text, and one for clients: SASL_SSL with SCRAM-SHA-512.

    With `asks_for_rights` it allows a login only what it was told to allow; who comes by the plain listener may do everything.
    """

    def __init__(self, folder: Path, secured_port: int, *, asks_for_rights: bool = False) -> None:
        super().__init__(folder)
        self._asks_for_rights = asks_for_rights
        self.secured = f"127.0.0.1:{secured_port}"
        folder.mkdir(parents=True, exist_ok=True)
        authority = Authority()
        self.authority = folder / "ca.pem"
        self.authority.write_bytes(authority.certificate)
        self._certificate, self._key = authority.issue("localhost").put(folder, "broker")

    def properties(self, ports: Ports, data: Path) -> str:
        """The plain broker's, with the secured listener beside it."""
        lines = server_properties(ports, data).splitlines()
        settings = dict(line.split("=", 1) for line in lines)
        settings["listeners"] += f",SECURED://{self.secured}"
        settings["advertised.listeners"] += f",SECURED://{self.secured}"
        settings["listener.security.protocol.map"] += ",SECURED:SASL_SSL"
        settings |= {
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.secured.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            "listener.name.secured.ssl.keystore.type": "PEM",
            "listener.name.secured.ssl.keystore.certificate.chain": _inline(self._certificate),
            "listener.name.secured.ssl.keystore.key": _inline(self._key),
        }
        if self._asks_for_rights:
            settings |= {
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:ANONYMOUS",
                "allow.everyone.if.no.acl.found": "false",
            }
        return "".join(f"{name}={value}\n" for name, value in settings.items())

    def let_in(self, *users: str) -> None:
        """Give each a login; all have the same password."""
        credential = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        wanted = [UserScramCredentialUpsertion(user, credential, PASSWORD.encode()) for user in users]
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        for done in admin.alter_user_scram_credentials(wanted).values():
            done.result()

    def allow(self, access: Iterable[Access]) -> None:
        """Let the login of each role's name do this."""
        wanted = [
            AclBinding(
                ResourceType.TOPIC if each.resource == "topic" else ResourceType.GROUP,
                name,
                ResourcePatternType.LITERAL,
                f"User:{each.role}",
                "*",
                OPERATIONS[operation],
                AclPermissionType.ALLOW,
            )
            for each in access
            for name in each.names
            for operation in each.operations
        ]
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        for done in admin.create_acls(wanted).values():
            done.result()

    def section(self, folder: Path, user: str = USER, password: str = PASSWORD) -> dict[str, Any]:
        """The section `kafka` of the settings, with the password's file in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        secret = folder / f"{user}.password"
        secret.touch(mode=0o600)
        secret.write_text(password)
        return {
            "bootstrap_servers": self.secured,
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_username": user,
            "sasl_password_file": str(secret),
            "ca_file": str(self.authority),
        }


def _inline(path: Path) -> str:
    """PEM in one line of a properties file."""
    return "\\n".join(path.read_text().splitlines())
