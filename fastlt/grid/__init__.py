"""python -m fastlt.grid: many experiments as the cells of one grid."""
