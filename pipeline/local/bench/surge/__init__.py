"""A surge while the EHR is slow."""
