"""Maintainers' tools, outside the package: releases, model cards, tables (``python -m tools``)."""
