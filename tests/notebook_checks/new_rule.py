"""What examples/notebooks/new_rule.ipynb shows."""

again = tuned.predict("../chelsea.jpg", str(rule))
assert all(np.array_equal(prediction.labels[task], again.labels[task]) for task in again.labels)
assert before.rule == after.rule == "pets" and before.scores.keys() == after.scores.keys()
