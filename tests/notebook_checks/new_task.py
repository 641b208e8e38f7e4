"""What examples/notebooks/new_task.ipynb shows."""

assert grown.tasks == loaded.tasks == (*model.tasks, "person")
np.testing.assert_allclose(start, like, atol=1e-4)
assert set(np.unique(source.load(0)["person"])) == {0, 255}
assert changed == ["representation.added"]
with torch.inference_mode():
    for number in range(len(model.tasks)):
        palette = torch.full((1, 64, 96), number)
        assert torch.equal(grown(image, palette), trained(image, palette))
assert sum(loss(trained)) < 0.9 * sum(loss(grown))
