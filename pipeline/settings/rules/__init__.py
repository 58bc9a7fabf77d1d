"""What may not be combined, and what a file or key must be."""
