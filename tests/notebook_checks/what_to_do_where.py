"""What examples/notebooks/what_to_do_where.ipynb shows."""

assert prediction.palette == proposed
assert losses[-1] < losses[0] / 5
assert agreements[-1] > 0.9 > 0.6 > agreements[0]
