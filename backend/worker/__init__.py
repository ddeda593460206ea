"""The worker process, which runs the scheduler's jobs one after another."""
