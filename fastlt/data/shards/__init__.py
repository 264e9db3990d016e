"""Shards and index: the converted form of a data set. `format` alone knows the layout."""
