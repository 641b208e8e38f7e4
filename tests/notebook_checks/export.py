"""What examples/notebooks/export.ipynb shows."""

assert composite.shape == (1, 3, height, width)
assert difference <= 1e-4
assert [task["name"] for task in tasks] == list(model.tasks)
