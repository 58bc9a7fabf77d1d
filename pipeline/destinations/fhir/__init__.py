"""The way out to FHIR servers."""
