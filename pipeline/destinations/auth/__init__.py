"""How a server knows us: bearer tokens, SMART Backend Services, client certificates, each rotated without a restart."""
