"""Section 3 in plain PyTorch: encoder, task representation and task composition blocks, decoder."""
