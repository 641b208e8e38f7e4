"""What examples/notebooks/palettes.ipynb shows."""

assert set(prediction.labels) == {"edges", "normals", "parts", "saliency"}
assert ctnet.Palette.load(OUT / "palette.png") == palette
assert len(mosaic.requested()) <= 4
assert set(answer.palette.requested()) <= {"normals", "edges"}
assert made.requested() == ("normals",)
assert made.shares()["normals"] == (classes == 15).mean()
torch.testing.assert_close(second, whole, rtol=0, atol=1e-4)
