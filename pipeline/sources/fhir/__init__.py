"""The way in by FHIR subscriptions."""
