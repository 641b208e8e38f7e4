"""Weights as files: which models there are, where their files lie, and how they are checked."""
