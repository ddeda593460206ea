"""``prelabel doctor``: check the whole setup and suggest fixes.

A check is a function that returns results, and an entry in a list of :mod:`backend.doctor.doctor`.
"""
