"""Maintainers' tools, not part of the package: releases, model cards, tables."""
