"""The version of ctnet."""

__version__ = "0.1.0"
