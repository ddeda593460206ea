"""From a folder of images to a project that learns: questions, config, import, connection."""
