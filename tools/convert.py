"""Converts labelled images into a dataset, for example: python tools/convert.py photos/ out=data/photos.

It is the same command as `python -m fastlt.convert`.
"""

from fastlt.convert import main

if __name__ == "__main__":
    main()
