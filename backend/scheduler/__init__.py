"""Scheduling of rounds: webhooks, polling and worker processes."""
