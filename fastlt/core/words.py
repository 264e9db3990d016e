"""Counts and lists in messages."""

from collections.abc import Sequence


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


def first_of(names: Sequence[str], most: int) -> str:
    """Returns the first `most` names, and how many more there are.

    >>> first_of(["cat", "dog", "elk"], 2), first_of(["cat"], 2)
    ('cat, dog and 1 more', 'cat')
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
