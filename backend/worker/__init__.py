"""The worker process: takes jobs from the scheduler and runs them, one after another."""
