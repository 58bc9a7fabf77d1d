"""The life of a managed file, in and out."""
