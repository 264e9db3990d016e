"""Which texts may be names of classes, datasets and files in keys."""

import unicodedata

# Categories of Unicode: control characters, separators of lines and of paragraphs, and halves of characters.
_NO_TEXT = {"Cc", "Zl", "Zp", "Cs"}


def is_one_line(text: str) -> bool:
    r"""Returns whether a text can be written as one line of UTF-8: it has no line break or other control character.

    Letters, spaces and joiners of every script are allowed, of which str.isprintable refuses some.

    >>> is_one_line("Straße 1"), is_one_line("a\u00a0b"), is_one_line("a\nb"), is_one_line("a\u2028b")
    (True, True, False, False)
    """
    return text.isprintable() or not any(unicodedata.category(letter) in _NO_TEXT for letter in text)
