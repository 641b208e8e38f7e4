"""Prediction: any image in, labels and pictures out."""
