"""Any image in, labels and pictures out."""
