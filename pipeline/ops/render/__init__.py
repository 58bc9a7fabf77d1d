"""What commands show, for people and as JSON."""
