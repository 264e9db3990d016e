"""fastlt: training on long-tailed image data, fast and honestly."""

__version__ = "0.1.0"
