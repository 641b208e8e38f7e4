"""What examples/notebooks/quickstart.ipynb shows."""

import numpy as np

assert all(x.shape[:2] == (height, width) for x in prediction.labels.values())
assert (prediction.labels["parts"][~asked] == 255).all()
assert (prediction.labels["parts"][asked] != 255).all()
assert path.is_file()
assert tuple(everything) == general.tasks
lengths = np.linalg.norm(everything["normals"].labels["normals"], axis=2)
assert np.allclose(lengths, 1, atol=1e-4)
assert composite.shape == (1, 3, height, width)
assert bool(saliency.valid.all()) and 0 <= saliency.values.min() <= saliency.values.max() <= 1
