"""``prelabel doctor``: looks at everything that has to fit together, and names what does not."""
