"""Whole syncs against the look-alike under seeded schedules of faults; ``python -m tests.chaos --help`` runs many."""
