"""From the source to the confirmation at the EHR."""
