"""Whole networks: CTN, MHN, STN and the palette network, and how they are loaded and saved."""

# Each registers itself: whatever of this package is imported, all systems can be built.
from ctnet.models import ctn, mhn_stn, palette_network

__all__ = ["ctn", "mhn_stn", "palette_network"]
