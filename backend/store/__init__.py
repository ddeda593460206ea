"""Files in the home folder: projects, versions with their cards, API keys, captured images."""
