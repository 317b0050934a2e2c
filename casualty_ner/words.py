"""The words of a text: the units that a span may begin and end with.

A word is a run of letters, digits, marks and underscores. A number keeps its separators (``1,500``, ``3.5m``), an
abbreviation of capitals its full stops (``U.S.``), a word its inner apostrophe (``N'Djamena``) except that of the possessive
``'s``, which the guidelines leave outside a span. Scripts written without spaces have a word per character. Everything else
that is not blank is a word per grapheme (user-perceived character).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import regex

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLANK = r"\s\x1c-\x1f"  # what str.isspace calls blank: Unicode's white space and four separators of ASCII
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_LETTERS = rf"[[\p{{L}}\p{{N}}_]--[{_UNSPACED}]]"
# Format characters (soft hyphen, joiners) belong to a word only between its letters.
_RUN = rf"{_LETTERS}\p{{M}}*(?:\p{{Cf}}*[[\p{{L}}\p{{N}}\p{{M}}_]--[{_UNSPACED}]])*"
_ABBREVIATION = r"(?<!\w)(?:\p{Lu}\.){2,}(?!\w)"
# No word depends on what lies beyond a blank (" ", \t, \n, \r): to a look-behind, a look-ahead and a grapheme's marks, joiners and
# flags a blank is as good as the end of the text. The one exception would be a sign that Unicode prepends to what follows it, a
# blank included, such as Arabic's U+0600; so that is a word by itself.
_WORD = regex.compile(
    rf"{_ABBREVIATION}|{_RUN}(?:(?:(?<=\p{{N}})[.,:](?=\p{{N}})|(?<=[\p{{L}}\p{{M}}\p{{N}}])['’](?![sS]\b)){_RUN})*|\p{{GCB=Prepend}}|(?=[^{_BLANK}])\X",
    regex.V1,
)
# The same rule where only ASCII occurs: several times as fast.
_ASCII_RUN = r"[A-Za-z0-9_]+"
_ASCII_WORD = regex.compile(
    rf"{_ABBREVIATION}|{_ASCII_RUN}(?:(?:(?<=[0-9])[.,:](?=[0-9])|(?<=[A-Za-z0-9])'(?![sS]\b)){_ASCII_RUN})*|[^{_BLANK}]",
    regex.V1,
)
_BEYOND_ASCII = regex.compile(r"[^\x00-\x7f][^ ]*")


def word_bounds(text: str) -> NDArray[np.int64]:
    """The half-open character offsets of every word, shape ``[words, 2]``, in order; blanks belong to none."""
    flat: list[int] = []
    for pattern, start, stop in _stretches(text):
        flat += [offset for match in pattern.finditer(text, start, stop) for offset in match.span()]
    return np.array(flat, dtype=np.int64).reshape(-1, 2)


def _stretches(text: str) -> Iterator[tuple[regex.Pattern[str], int, int]]:
    """Cut a text at blanks, so that the rule for ASCII serves wherever nothing else occurs."""
    at = 0
    if not text.isascii():
        for beyond in _BEYOND_ASCII.finditer(text):
            start = text.rfind(" ", at, beyond.start()) + 1 or at
            yield _ASCII_WORD, at, start
            yield _WORD, start, beyond.end()
            at = beyond.end()
    yield _ASCII_WORD, at, len(text)
