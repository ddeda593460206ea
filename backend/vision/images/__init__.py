"""Images: decode untrusted bytes, read metadata and draw regions."""
