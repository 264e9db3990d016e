"""Converts images and labels into a dataset: a folder of shards with an index, which training reads."""

from fastlt.data.convert.build import convert_configured
from fastlt.data.convert.engine import Conversion, convert

__all__ = ["Conversion", "convert", "convert_configured"]
