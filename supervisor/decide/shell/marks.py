"""How a word is written down while it is looked at: text with marks for what the shell alone will know. Pure.

A mark is one of the Unicode noncharacters U+FDD0 to U+FDDF, which no text of ours contains otherwise: such a
character in a script becomes ANY before anything looks at it. So a word that is partly known stays one string, and
shell text that is put together from it can be parsed again with its unknown parts in place.
"""

from __future__ import annotations

import re

UNSET = "\ufdd0"  # the value of a variable that the script never sets: most likely nothing
ANY = "\ufdd1"  # something that is only known at run time
SUBST = "\ufdd2"  # the same, out of a substitution
SPLIT = "\ufdd3"  # here one word ends and the next begins
NOTHING = "\ufddb"  # quoted nothing: keeps a word alive that is otherwise empty
_QUOTED = {c: chr(0xFDD4 + i) for i, c in enumerate("{,}*?[~")}

_TO_QUOTED = str.maketrans(_QUOTED)
_FROM_QUOTED = str.maketrans({v: k for k, v in _QUOTED.items()} | {NOTHING: ""})
_UNKNOWN = re.compile("[\ufdd0-\ufdd2]")
_RESERVED = re.compile("[\ufdd0-\ufddf]")
reserved = _RESERVED.search  # whether any is in a text
_GLOB = re.compile(r"[*?]|\[.")


def clean(text: str) -> str:
    """A text as it came from outside, in which no character means a mark that nobody made."""
    return _RESERVED.sub(ANY, text)


def quote(text: str) -> str:
    """Text that stood in quotes: its special characters mean themselves."""
    return text.translate(_TO_QUOTED) or NOTHING


def unquote(text: str) -> str:
    return text.translate(_FROM_QUOTED)


def globs(text: str) -> bool:
    """Whether an expanded, not yet unquoted word is a pattern for names of files."""
    return _GLOB.search(text) is not None


def unknown(word: str) -> bool:
    return _UNKNOWN.search(word) is not None


def known(word: str) -> str | None:
    """The word, or None when a part of it is only known at run time.

    Options are read as if variables that nobody set were empty: `-r${x}f` is `-rf`.
    """
    if _UNKNOWN.search(word) is None:
        return word
    if word[0] == "-":
        return None if ANY in word or SUBST in word else word.replace(UNSET, "")
    return None


def collapsed(word: str) -> str:
    """The word as it is when the variables that nobody set are empty."""
    return word.replace(UNSET, "")


def shown(word: str) -> str:
    return _UNKNOWN.sub("…", word)
