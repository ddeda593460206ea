"""Evaluate a new version on the audit set, and decide whether it goes live."""
