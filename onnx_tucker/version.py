"""The version of the package, which models and caches note."""

__version__ = "0.1.0"
