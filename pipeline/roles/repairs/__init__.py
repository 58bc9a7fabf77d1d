"""Commands that send again what is parked, quarantined or in doubt."""
