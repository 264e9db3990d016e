"""Compute kernels, one op per file: arrays in, arrays out, nothing known of the rest of fastlt."""
