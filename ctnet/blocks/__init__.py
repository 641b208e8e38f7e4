"""Section 3 of the paper in plain PyTorch: encoders, task blocks, decoder."""
