"""The defaults of Python, the command line and the demo."""

MODEL = "ctn-r2"
"""Name of the network."""

PALETTE = "R2"
"""Name of the rule that says what to do where."""

PALETTE_NETWORK = "palette-r2"
"""Name of the palette network, for the palette ``auto``."""

LONG_SIDE = 320
"""Working size: longest side, in pixels, at which networks see an image."""
