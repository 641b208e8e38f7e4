"""Data: label sources, data sets, sampling and augmentation. Needs the extra ``[train]``."""
