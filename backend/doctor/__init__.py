"""``prelabel doctor``: check the whole setup and suggest fixes.

A check is a function from what it examines to its results, and one entry in a list of
:mod:`backend.doctor.doctor`.
"""
