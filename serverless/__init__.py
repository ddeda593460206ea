"""Training and prediction on Modal. Only ``backend.bootstrap`` and the CLI import this package."""
