"""Adapters to frameworks.  Each needs its framework, none is imported by the package itself."""
