"""FHIR R4: what we know of a bed, a stay or a person as paths of a resource that we own, and back. Pure."""
