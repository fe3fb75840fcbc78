"""What an expression of Python comes to, where its text tells: texts, lists, paths, names of imports. Pure.

A part that only the run will know is the mark ANY inside a text, and the name of whatever lies in a directory is `*`:
so a path that is put together from it is the pattern that a shell would write, and is judged by the same rules.
"""

from __future__ import annotations

import ast
import base64
import binascii
import codecs
import posixpath
import re
import shlex
from typing import TYPE_CHECKING, Any, NamedTuple

from supervisor.decide.shell.flow import DECODED, FILE, NET, NOTHING_AT_ALL
from supervisor.decide.shell.marks import ANY, clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_TEXT = 65_536
_MAX_ITEMS = 512
_LARGE = 1 << 63
_MAX_TAKEN_APART = 2048  # characters that are split, decoded or formatted: in a loop that is what takes time
HOME = "~"


class Ref(NamedTuple):
    """A dotted name that an import or a builtin stands behind: os.system."""

    name: str


class PathText(NamedTuple):
    """A pathlib.Path."""

    text: str


class Method(NamedTuple):
    """Something of a value, called or not: "x".join, p.unlink."""

    of: Val
    name: str


class Func(NamedTuple):
    node: ast.FunctionDef | ast.AsyncFunctionDef


class Val(NamedTuple):
    """`it` is a str, an int, a list of Val, one of the above, or None for what is not known."""

    it: Any = None
    traits: frozenset[str] = NOTHING_AT_ALL


UNKNOWN = Val()
# What comes of a call: over the network, decoded, or out of a file.
_NET = ("urllib.request.urlopen", "urlopen", "requests.get", "requests.post", "requests.request", "httpx.get",
        "urllib2.urlopen", "urllib3.request", "http.client.HTTPConnection", "http.client.HTTPSConnection",
        "aiohttp.ClientSession", "socket.socket", "ftplib.FTP", "requests.Session", "httpx.Client")  # fmt: skip
_DECODES = ("zlib.decompress", "gzip.decompress", "bz2.decompress", "lzma.decompress", "marshal.loads", "pickle.loads",
            "base64.b32decode", "base64.b16decode", "base64.b85decode", "base64.a85decode",
            "base64.decodebytes")  # fmt: skip
_FIELD = re.compile(r"%%|\{\{|\}\}|%[-+ #0]*\d*(?:\.\d+)?[a-zA-Z]|%\(\w+\)[a-z]|\{[^{}]*\}")
_CHILDREN = frozenset(("os.listdir", "os.scandir", "glob.glob", "glob.iglob"))


def traits(values: Iterable[Val]) -> frozenset[str]:
    return NOTHING_AT_ALL.union(*(v.traits for v in values))


def text(value: Val) -> str | None:
    """The value as a text; None when nothing of it is known."""
    it = value.it
    if isinstance(it, str):
        return it
    if isinstance(it, PathText):
        return it.text
    return str(it) if isinstance(it, int) else None


def cut(text: str, most: int = MAX_TEXT) -> str:
    """A text within its bound. What is left out stays said: a padded text does not end in what is harmless."""
    return text if len(text) <= most else text[:most] + ANY


def several(items: list[Val]) -> list[Val]:
    """The same of a list."""
    return items if len(items) <= _MAX_ITEMS else [*items[:_MAX_ITEMS], UNKNOWN]


def marked(value: Val) -> str:
    found = text(value)
    return ANY if found is None else found


def texts(value: Val) -> list[str] | None:
    """The value as a list of words, with marks for those that are not known; None when it is no list."""
    return [marked(item) for item in value.it] if isinstance(value.it, list) else None


def join(parts: Sequence[Val]) -> str:
    """os.path.join: what is not known is one name."""
    return posixpath.join(*[marked(part) for part in parts]) if parts else ""


def children(path: str, *, whole: bool) -> Val:
    """What is found when one looks through a directory: any name, alone or with the directory before it."""
    return Val([Val(PathText(posixpath.join(path, "*")) if whole else "*")])


def added(left: Val, right: Val) -> Val:
    both = left.traits | right.traits
    if isinstance(left.it, list) and isinstance(right.it, list):
        return Val(several(left.it + right.it), both)
    if isinstance(left.it, int) and isinstance(right.it, int):
        return Val(number(left.it + right.it).it, both)
    if isinstance(left.it, str) or isinstance(right.it, str):
        return Val(cut(marked(left) + marked(right)), both)
    return Val(None, both)


def imported(node: ast.Import | ast.ImportFrom) -> dict[str, Val]:
    """The names that an import makes, and what stands behind each; `*` for all of a module."""
    if isinstance(node, ast.ImportFrom):
        return {alias.asname or alias.name: Val(Ref(f"{node.module}.{alias.name}")) for alias in node.names}
    whole = [(alias.asname, alias.name if alias.asname else alias.name.split(".")[0]) for alias in node.names]
    return {asname or name: Val(Ref(name)) for asname, name in whole}


def constant(it: object) -> Val:
    if isinstance(it, bytes):
        it = it.decode("latin-1")
    if isinstance(it, str):
        return Val(own(it))
    return number(it) if isinstance(it, int) and not isinstance(it, bool) else UNKNOWN


def own(text: str) -> str:
    """A text that an escape or a decoding made: without marks of ours and halves of surrogate pairs."""
    return text if text.isascii() else clean(text.encode(errors="replace").decode())


def number(it: int) -> Val:
    """int(3) writes no more than 4300 digits, and nothing that is looked for here has twenty."""
    return Val(it if -_LARGE < it < _LARGE else None)


def binary(op: ast.operator, left: Val, right: Val) -> Val:
    both = left.traits | right.traits
    if isinstance(op, ast.Add):
        return added(left, right)
    if isinstance(op, ast.Mod) and isinstance(left.it, str):
        return Val(formatted(left.it, right.it if isinstance(right.it, list) else [right]), both)
    if isinstance(op, ast.Div) and isinstance(left.it, PathText):
        return Val(PathText(join([left, right])), both)
    if isinstance(op, ast.Mult) and isinstance(left.it, str) and isinstance(right.it, int):
        most = MAX_TEXT // max(1, len(left.it))
        return Val(left.it * min(right.it, most) + (ANY if right.it > most else ""), both)
    return Val(None, both)


def unary(op: ast.unaryop, of: Val) -> Val:
    return Val(-of.it) if isinstance(op, ast.USub) and isinstance(of.it, int) else Val(None, of.traits)


def each(of: Val) -> list[Val]:
    """The items of a list; what is no known list is one that is not known."""
    return several(of.it) if isinstance(of.it, list) else [Val(None, of.traits)]


def formatted(form: str, values: Sequence[Val]) -> str:
    """`%` and str.format(), with the values in their order: whatever a field is called, the next one is put there."""
    left = list(values)

    def one(found: re.Match[str]) -> str:
        if found[0] in ("%%", "{{", "}}"):
            return found[0][0]
        return marked(left.pop(0)) if left else ANY

    return cut(_FIELD.sub(one, cut(form, _MAX_TAKEN_APART)))


def method(of: Val, name: str, args: Sequence[Val]) -> Val:
    """A method of a text, a list or a path that does nothing but to give another one."""
    both = of.traits | traits(args)
    it = of.it
    if isinstance(it, PathText):
        return _of_path(it.text, name, args)
    if isinstance(it, list):
        if name in ("append", "add") and args:
            it[:] = several([*it, args[0]])
        elif name == "extend" and args and isinstance(args[0].it, list):
            it[:] = several(it + args[0].it)
        return Val(it if name == "copy" else None, both)
    if not isinstance(it, str):
        return Val(None, both)
    if name == "join" and args and isinstance(args[0].it, list):
        return Val(cut(it.join(texts(args[0]) or ())), both | traits(args[0].it))
    if name == "split":
        by = text(args[0]) if args else None
        return Val(several([Val(part) for part in cut(it, _MAX_TAKEN_APART).split(by or None)]), both)
    if name == "format":
        return Val(formatted(it, args), both)
    if name == "replace" and len(args) > 1:
        return Val(cut(it.replace(marked(args[0]), marked(args[1]))), both)
    if name in ("strip", "lstrip", "rstrip", "lower", "upper", "encode", "decode", "expandtabs"):
        return Val(getattr(it, name)() if name not in ("encode", "decode") else it, both)
    return Val(None, both)


def _of_path(path: str, name: str, args: Sequence[Val]) -> Val:
    if name in ("expanduser", "resolve", "absolute", "as_posix", "__str__"):
        return Val(PathText(path))
    if name in ("joinpath", "with_name"):
        return Val(PathText(join([Val(path), *args])))
    if name in ("iterdir", "glob", "rglob"):
        return children(path, whole=True)
    return UNKNOWN


def known(name: str, args: Sequence[Val]) -> Val | None:
    """What a function of the library gives that has no effect but that; None for one that is not known here."""
    first = args[0] if args else UNKNOWN
    both = traits(args)
    if name in ("os.path.join", "posixpath.join"):
        return Val(join(args), both)
    if name in ("os.path.expanduser", "os.path.expandvars", "os.path.abspath", "os.path.realpath", "os.path.normpath",
                "os.fspath", "str", "bytes", "repr"):  # fmt: skip
        return Val(text(first), both)
    if name in ("pathlib.Path", "pathlib.PosixPath", "pathlib.PurePath", "pathlib.PurePosixPath", "Path"):
        return Val(PathText(join(args) if args else "."), both)
    if name in ("pathlib.Path.home", "Path.home"):
        return Val(PathText(HOME))
    if name in ("os.getenv", "os.environ.get"):
        return Val(HOME) if text(first) == "HOME" else UNKNOWN
    if name in _CHILDREN:
        found = text(first) or "."
        if name.startswith("glob."):
            return Val([Val(found)])
        return children(found, whole=name == "os.scandir")
    if name in ("os.walk", "os.fwalk"):
        names = Val([Val("*")])
        return Val([Val([Val(text(first) or "."), names, names])])
    if name in ("list", "tuple", "sorted", "set", "reversed", "iter", "enumerate") and isinstance(first.it, list):
        items = [Val([UNKNOWN, item]) for item in first.it] if name == "enumerate" else list(first.it)
        return Val(items[::-1] if name == "reversed" else items, both)
    if name == "shlex.split" and isinstance(first.it, str) and len(first.it) <= _MAX_TAKEN_APART:
        try:
            return Val([Val(word) for word in shlex.split(first.it)], both)
        except ValueError:
            return Val(None, both)
    if name == "shlex.join" and isinstance(first.it, list):
        return Val(" ".join(texts(first) or ()), both)
    if name == "chr" and isinstance(first.it, int) and 0 <= first.it < 0x110000:
        return Val(own(chr(first.it)), both | {DECODED})
    return _decoded(name, first, args, both) or _fetched(name, both)


def _fetched(name: str, both: frozenset[str]) -> Val | None:
    if name in _NET:
        return Val(None, both | {NET})
    if name in ("open", "io.open", "codecs.open"):
        return Val(None, both | {FILE})
    return None


def _decoded(name: str, first: Val, args: Sequence[Val], both: frozenset[str]) -> Val | None:
    given = first.it if isinstance(first.it, str) and len(first.it) <= MAX_TEXT else None
    if name in _DECODES:
        return Val(None, both | {DECODED})
    if name not in ("base64.b64decode", "base64.urlsafe_b64decode", "bytes.fromhex", "bytearray.fromhex",
                    "binascii.unhexlify", "codecs.decode", "binascii.a2b_base64"):  # fmt: skip
        return None
    found: str | None = None
    try:
        if given is not None and name in ("bytes.fromhex", "bytearray.fromhex", "binascii.unhexlify"):
            found = bytes.fromhex(given).decode(errors="replace")
        elif given is not None and name == "codecs.decode":
            how = text(args[1]) if len(args) > 1 else ""
            found = codecs.decode(given, "rot13") if how in ("rot13", "rot_13") else None
        elif given is not None:
            found = base64.b64decode(given).decode(errors="replace")
    except (ValueError, binascii.Error):
        found = None
    return Val(found if found is None else cut(own(found)), both | {DECODED})
