"""What examples/notebooks/own_photographs.ipynb shows."""

assert len(photographs) == len(list(Path("..").glob("*.jpg"))) > 1
assert len(list(Path("out/results").glob("*_overlay.png"))) == len(photographs)
assert tuned.tasks == network.tasks == (*model.tasks, "subject")
assert network.tasks[-1].spec.classes == ("background", "person", "animal")
found = network.predict("../astronaut.jpg", "single:subject").labels["subject"]
assert set(np.unique(found)) <= {0, 1, 2}
