"""Export: a network as one graph for other runtimes."""
