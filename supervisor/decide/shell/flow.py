"""What runs through a pipe or out of a substitution, as far as it is known. Pure."""

from __future__ import annotations

import base64
import binascii
import re
from typing import NamedTuple

from supervisor.decide.shell.marks import clean, unknown

NET = "net"  # it came over the network
DECODED = "decoded"  # it was decoded or otherwise made readable
SETTINGS = "settings"  # what is meant to be evaluated: ssh-agent, direnv hook
FILE = "file"  # the contents of a file that is named
SHELL = "shell"  # what a shell that waits for commands says
TREE = "tree"  # names of all files below directories, which are the text
HELD = "held"  # a variable holds it, and it may be a part of a text that is known otherwise
ENVIRON = "environ"  # the variables of the environment, with what they are set to
ENCODED = "encoded"  # what was decoded was written so that nobody reads it, not only packed
NOTHING_AT_ALL: frozenset[str] = frozenset()
HOLDS = frozenset((NET, DECODED, SETTINGS))  # what still matters once a variable holds it


class Flow(NamedTuple):
    text: str | None = None  # None: not known
    traits: frozenset[str] = NOTHING_AT_ALL
    files: tuple[str, ...] = ()  # whose contents it is
    perhaps: tuple[str, ...] = ()  # texts that may be in it, where it is not known


EMPTY = Flow("", NOTHING_AT_ALL)
UNKNOWN = Flow()


def joined(flows: list[Flow]) -> Flow:
    """One after the other."""
    if not flows:
        return EMPTY
    if len(flows) == 1:
        return flows[0]
    traits = frozenset().union(*(f.traits for f in flows))
    texts = [f.text for f in flows]
    known = [t for t in texts if t is not None]
    files = tuple(dict.fromkeys(name for f in flows for name in f.files))[:64]
    perhaps = tuple(text for f in flows for text in f.perhaps)
    if len(known) == len(texts):
        return Flow("".join(known), traits, files, perhaps[:64])
    return Flow(None, traits, files, (*(text for text in known if text.strip()), *perhaps)[:64])


def decode(name: str, words: list[str], text: str | None) -> str | None:
    """What a decoding program makes of a text, where that is easily told; None where it is not."""
    if text is None or unknown(text):
        return None
    try:
        if name == "base64":
            return _text(base64.b64decode(re.sub(r"\s", "", text)))
        if name == "base32":
            return _text(base64.b32decode(re.sub(r"\s", "", text)))
        if name == "xxd":
            return _text(bytes.fromhex(re.sub(r"\s", "", text)))
        if name == "openssl":
            return _text(base64.b64decode(re.sub(r"\s", "", text))) if _has(words, "base64", "-base64", "-a") else None
        if name == "rev":
            return "\n".join(line[::-1] for line in text.split("\n"))
        if name == "tac":
            return "\n".join(reversed(text.split("\n")))
        if name == "tr" and len(words) == 3:
            return _tr(words[1], words[2], text)
    except (ValueError, binascii.Error):
        return None
    return None


def _has(words: list[str], *options: str) -> bool:
    return any(w in options for w in words)


def _text(data: bytes) -> str | None:
    return clean(data.decode(errors="replace").replace("\0", ""))[:65536]


def _tr(old: str, new: str, text: str) -> str | None:
    if old == "-d":
        return text.translate({ord(c): None for c in _set(new)})
    a, b = _set(old), _set(new)
    if not a or not b:
        return None
    b = b + b[-1] * (len(a) - len(b))
    return text.translate({ord(x): y for x, y in zip(a, b, strict=False)})


_CLASSES = {"[:upper:]": "A-Z", "[:lower:]": "a-z", "[:digit:]": "0-9", "[:blank:]": " \t", "[:space:]": " \t\n\r\f\v"}


def _set(chars: str) -> str:
    for name, range_ in _CLASSES.items():
        chars = chars.replace(name, range_)
    return re.sub(r"(.)-(.)", lambda m: "".join(map(chr, range(ord(m[1]), ord(m[2]) + 1))), chars)


# name -> options of which one makes it decode; none named: it always does.
DECODERS: dict[str, frozenset[str]] = {
    "base64": frozenset(["-d", "-D", "--decode", "-di", "-id"]),
    "base32": frozenset(["-d", "-D", "--decode"]),
    "basenc": frozenset(["-d", "--decode"]),
    "xxd": frozenset(["-r", "-rp", "-pr", "--revert"]),
    "openssl": frozenset(["-d"]),
    "rev": frozenset(),
    "tac": frozenset(),
    "tr": frozenset(),
    "uudecode": frozenset(),
    "gunzip": frozenset(),
    "zcat": frozenset(),
    "bunzip2": frozenset(),
    "bzcat": frozenset(),
    "xzcat": frozenset(),
    "unxz": frozenset(),
    "zstdcat": frozenset(),
    "gzip": frozenset(["-d", "-dc", "-cd", "--decompress"]),
    "xz": frozenset(["-d", "-dc", "-cd", "--decompress"]),
    "zstd": frozenset(["-d", "-dc"]),
    "gpg": frozenset(["-d", "--decrypt"]),
    "ascii85": frozenset(["-d"]),
    "rot13": frozenset(),
    "caesar": frozenset(),
    "hexdump": frozenset(),
    "od": frozenset(),
    "steghide": frozenset(),
    "dd": frozenset(["conv=swab"]),
    "ascii2uni": frozenset(),
    "base58": frozenset(["-d"]),
    "recode": frozenset(),
    "dc": frozenset(),
    "unzip": frozenset(["-p"]),
    "7z": frozenset(["-so"]),
    "ar": frozenset(["p"]),
    "strings": frozenset(),
}


# Of these, those for texts that are not meant to be read; the others unpack or turn round.
ENCODINGS = frozenset(["base64", "base32", "basenc", "base58", "ascii85", "xxd", "openssl", "uudecode", "rot13"])


def decodes(name: str, words: list[str]) -> bool:
    options = DECODERS.get(name)
    if options is None:
        return False
    return not options or any(w in options for w in words[1:])
