"""Training: data, augmentation, losses and the loop. Needs the extra ``[train]``."""
