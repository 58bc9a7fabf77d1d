"""The gate beside the same decision in other frameworks."""
