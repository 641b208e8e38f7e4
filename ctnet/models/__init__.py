"""Whole networks: CTN, MHN, STN and the palette network, and how they are loaded and saved."""
