"""How a FHIR server is reached and who we are there, whichever way data goes."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.settings.sections.base import File, Section


class SmartSettings(Section):
    """SMART Backend Services: short-lived tokens for assertions that our key signs."""

    client_id: Annotated[str, Field(description="our name at the token endpoint", pattern=r"^[\x21-\x7e]{1,255}$")]
    key_file: Annotated[File, Field(description="file with the private key, PEM or JWK, without a pass phrase")]
    key_id: Annotated[
        str | None,
        Field(
            description="the key's id at the endpoint; if left out the JWK's own, else its thumbprint",
            pattern=r"^[\x21-\x7e]{1,255}$",
        ),
    ] = None
    algorithm: Annotated[
        Literal["ES384", "RS384"], Field(description="how the key signs: ES384 by a P-384 key, RS384 by an RSA key")
    ] = "ES384"
    scope: Annotated[
        str,
        Field(
            description="rights that we ask for, with spaces between", pattern=r"^[\x21-\x7e]+( [\x21-\x7e]+)*$", max_length=2_000
        ),
    ]
    token_url: Annotated[
        str | None,
        Field(
            description="token endpoint; if left out, the one that the server names in .well-known/smart-configuration",
            pattern=r"^https?://[^@\s#]+$",
        ),
    ] = None


class ServerSettings(Section):
    """Where a FHIR server is, how we know that it is the one, and how it knows us."""

    base_url: Annotated[str, Field(description="FHIR base address, without user or password", pattern=r"^https?://[^@\s?#]+$")]
    token_file: Annotated[File | None, Field(description="file with the bearer token for the server")] = None
    smart: Annotated[SmartSettings | None, Field(description="tokens of a token endpoint, in place of token_file")] = None
    ca_file: Annotated[File | None, Field(description="certificates of who signed the server's certificate, PEM")] = None
    cert_file: Annotated[File | None, Field(description="our certificate for the server, PEM")] = None
    key_file: Annotated[File | None, Field(description="key of our certificate, PEM")] = None
