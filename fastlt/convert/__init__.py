"""images + labels -> dataset/."""

from fastlt.convert.build import convert_configured
from fastlt.convert.engine import Conversion, convert

__all__ = ["Conversion", "convert", "convert_configured"]
