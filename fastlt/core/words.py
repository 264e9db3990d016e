"""Counts in messages, with the right plural; and which texts may be names."""

import unicodedata

# Categories of Unicode: control characters, separators of lines and of paragraphs, and halves of characters.
_NO_TEXT = {"Cc", "Zl", "Zp", "Cs"}


def counted(number: int, word: str) -> str:
    """Returns a count and a word in the singular or plural, such as "1 image" or "2,048 images".

    word: what is counted, in the singular; its last word gets the ending, as in "training image".

    >>> [counted(number, "class") for number in (0, 1, 1000)]
    ['0 classes', '1 class', '1,000 classes']
    >>> counted(2, "category"), counted(1, "training image")
    ('2 categories', '1 training image')
    """
    return f"{number:,} {word if number == 1 else plural(word)}"


def plural(word: str) -> str:
    """Returns the plural of a regular English noun.

    >>> plural("box"), plural("batch"), plural("epoch"), plural("damaged entry")
    ('boxes', 'batches', 'epochs', 'damaged entries')
    """
    if word.endswith(("s", "x", "ch", "sh")) and not word.endswith("epoch"):
        return f"{word}es"
    if word.endswith("y") and word[-2] not in "aeiou":
        return f"{word[:-1]}ies"
    return f"{word}s"


def agree(number: int, one: str, several: str) -> str:
    """Returns the form of a verb that agrees with a count.

    >>> agree(1, "is", "are"), agree(0, "is", "are")
    ('is', 'are')
    """
    return one if number == 1 else several


def is_one_line(text: str) -> bool:
    r"""Returns whether a text can be written as one line of UTF-8: it has no line break or other control character.

    Letters, spaces and joiners of every script are allowed, of which str.isprintable refuses some.

    >>> is_one_line("Straße 1"), is_one_line("a\u00a0b"), is_one_line("a\nb"), is_one_line("a\u2028b")
    (True, True, False, False)
    """
    return text.isprintable() or not any(unicodedata.category(letter) in _NO_TEXT for letter in text)
