"""The life of a subscription at a FHIR server, and two feeds side by side."""
