"""Reads features of other networks from files of several formats into a feature store."""
