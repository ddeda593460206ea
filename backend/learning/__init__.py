"""Decisions: the audit set, what to label next, how good a version is. No HTTP, no files."""
