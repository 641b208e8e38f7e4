"""The zoo: which models there are, where their files are, and how they are checked."""
