"""Reads and writes converted datasets: shards with an index. The layout of the files is defined in `format` only."""
