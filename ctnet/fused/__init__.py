"""The blocks for inference, faster: the same answers, with norms folded and work shared."""
