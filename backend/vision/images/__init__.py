"""Images: decode bytes safely, read metadata, draw regions."""
