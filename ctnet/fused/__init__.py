"""Fast inference: the same outputs, with norms folded and work shared."""
