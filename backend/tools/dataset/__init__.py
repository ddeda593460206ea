"""Export a project's labels: read them, fetch the images, and write them in a format."""
