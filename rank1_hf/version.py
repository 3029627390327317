"""The version, for whoever stands below the package's own `__init__`."""

__version__ = "0.1.0"
