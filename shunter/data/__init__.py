"""Data shipped with the package; README.md says where each file comes from."""
