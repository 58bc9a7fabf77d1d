"""Places that files come from and go to, each behind one protocol: a folder here, SFTP, object storage."""
