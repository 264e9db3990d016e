"""Predicts the classes of new images with a finished run: python -m fastlt.predict."""
