"""Runs many experiments as the cells of a grid: python -m fastlt.grid."""
