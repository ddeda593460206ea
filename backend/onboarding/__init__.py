"""``prelabel init``: create a project from a folder of images and connect it to the backend."""
