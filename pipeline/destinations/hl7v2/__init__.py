"""The way out by HL7 v2 over MLLP."""
