"""Programs that come with an exported version; they know nothing of this project."""
