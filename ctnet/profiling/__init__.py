"""Time and memory of networks on this machine."""
