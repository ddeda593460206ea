"""Images: decode untrusted files, read metadata and draw predictions."""
