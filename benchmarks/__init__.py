"""Measurements that are no tests: ``python -m benchmarks``."""
