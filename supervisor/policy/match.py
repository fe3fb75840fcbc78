"""Which paths a pattern of policy names. Both decide/ and the launcher ask here, so that they agree."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ZONES = ("0", "1", "2", "3", "4")  # R66: 0 public, 1 user, 2 API, 3 agent runtime, 4 privileged

# R75: directories of secrets that no workspace may be, lie in, or hold as a home does.
SECRET_DIRECTORIES = (".ssh", ".gnupg", ".aws", ".config/gcloud")
# What a home has that holds them. A repository may well have an .aws of its own, but no keys in it.
_KEPT = (".ssh", ".gnupg", ".aws/credentials", ".aws/sso", ".config/gcloud")


@lru_cache(maxsize=1024)
def _pattern(glob: str) -> re.Pattern[str]:
    out = ""
    for part in re.split(r"(\*\*|\*|\?)", glob):
        out += {"**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part) or re.escape(part)
    return re.compile(out, re.DOTALL)


def path_matches(path: str, globs: Iterable[str]) -> str | None:
    """The first pattern that names `path` (a real absolute path), or None. `*` stays within one component."""
    return next((g for g in globs if _pattern(g).fullmatch(path)), None)


def inside(path: str, directory: str) -> bool:
    """Whether `path` is `directory` or below it. Both are absolute and normalised."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def secret_part(path: str) -> str | None:
    """The secret directory that `path` is or lies in, if any."""
    padded = path.rstrip("/") + "/"
    return next((d for d in SECRET_DIRECTORIES if f"/{d}/" in padded), None)


def secrets_kept(path: str) -> Iterator[str]:
    """What must not be in the directory `path`, relative to it, for it to be no home and no .config of one."""
    for kept in _KEPT:
        yield kept
        above, _, rest = kept.partition("/")
        if rest and path.endswith(f"/{above}"):
            yield rest


@lru_cache(maxsize=1024)
def _texts(globs: tuple[str, ...]) -> re.Pattern[str]:
    """One pattern for all of them: what policy names together is asked about together."""
    one = {"*": ".*", "?": "."}
    each = [f"(?:{''.join([one.get(char) or re.escape(char) for char in glob])})" for glob in globs]
    return re.compile("|".join(each) or "(?!)", re.DOTALL)


def label_matches(text: str, patterns: tuple[str, ...]) -> bool:
    """Whether one of the patterns of labels (`*` any text, `?` any character, case counts) names a text."""
    return _texts(patterns).fullmatch(text) is not None


def zone_matches(zone: str, patterns: tuple[str, ...]) -> bool:
    """Whether one of the patterns names a trust zone. What names a zone names every less trusted one too.

    So a label that puts a request into a lower zone is no way past what is said of a higher one.
    """
    return any(label_matches(other, patterns) for other in ZONES if zone <= other)
