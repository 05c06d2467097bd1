"""A JSON array in which something is wrong -> its elements, so that only the wrong ones are rejected. Pure.

Strings, brackets and commas alone say where an element ends. What stands between them is judged with its element: NaN,
half a surrogate pair, a nesting bomb, a misspelt word. Where the brackets themselves do not fit, as in an array that
was cut off, nobody can say what is an element of what.
"""

from __future__ import annotations

import re
from typing import Final

_STRUCTURE: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[][{},"]', re.DOTALL)
"""A whole string, or one character of the structure; a quotation mark by itself begins a string without an end."""
_CLOSING: Final = {b"[": b"]", b"{": b"}"}
_SPACE: Final = b" \t\r\n"


def split_array(value: bytes, elements_max: int) -> list[bytes]:
    """The first `elements_max` elements at most, without the spaces around them; [] where the structure is broken.

    Between two commas there may be nothing: then that is an element, of no bytes.
    """
    elements: list[bytes] = []
    open_ones: list[bytes] = []
    first = 0
    for found in _STRUCTURE.finditer(value):
        token = found[0]
        if closing := _CLOSING.get(token):
            open_ones.append(closing)
            if len(open_ones) == 1:
                first = found.end()
        elif token == b"," and len(open_ones) == 1:
            elements.append(value[first : found.start()].strip(_SPACE))
            first = found.end()
            if len(elements) == elements_max:
                return elements
        elif token in (b"]", b"}"):
            if not open_ones or open_ones.pop() != token:
                return []
            if not open_ones:
                elements.append(value[first : found.start()].strip(_SPACE))
                return [] if value[found.end() :].strip(_SPACE) else elements
        elif token == b'"':
            return []
    return []
