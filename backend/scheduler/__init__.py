"""When rounds run: projects, webhooks, polling, worker processes."""
