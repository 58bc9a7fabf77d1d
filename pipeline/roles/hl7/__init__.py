"""HL7 v2 by hand: sending, and listening."""
