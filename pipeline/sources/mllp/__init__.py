"""The way in by HL7 v2 over MLLP."""
