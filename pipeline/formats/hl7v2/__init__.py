"""HL7 v2: bytes to canonical events, and acknowledgements. Pure: no clock, no network, no chance."""
