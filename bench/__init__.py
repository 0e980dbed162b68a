"""Measurements: ``python -m bench`` runs the whole suite, see README.md."""
