"""Converts labelled images into a dataset: python tools/convert.py dataset=NAME ... out=DIR."""

from fastlt.convert import main

if __name__ == "__main__":
    main()
