"""Class names and confidences of new images, by a finished run: python -m fastlt.predict."""
