"""`stockade approvals --watch`: questions as they come, and on a terminal a key for each answer."""

from __future__ import annotations

import json
import os
import re
import termios
import time
from typing import TYPE_CHECKING, Any

import click

from supervisor import errors
from supervisor.cli import approvals, question, show
from supervisor.cli.common import client, privileged, report

if TYPE_CHECKING:
    from collections.abc import Mapping

_KEYS = "[y]es once  [3x] times  [30m] for so long  [t]arget  [s]ession  [n]o, or n and why  [l]ater  [q]uit"
_TIME = re.compile(r"[0-9]{1,6}(?:s|m|h)", re.ASCII)
_COUNT = re.compile(r"([0-9]{1,5})x|x([0-9]{1,5})", re.ASCII)


def watch(*, as_object: bool) -> None:
    """Show what is pending, then each new question, until the service ends the stream or Ctrl-C."""
    Watcher(as_object=as_object, asks=os.isatty(0) and os.isatty(1) and not as_object).follow()


class Watcher:
    """Shows each question once. `asks`: somebody is there to answer."""

    def __init__(self, *, as_object: bool, asks: bool) -> None:
        self._as_object = as_object
        self._asks = asks
        self._seen: set[str] = set()

    def follow(self) -> None:
        """Raises errors.StockadeError when the service goes away, click.Abort when the user leaves."""
        again = True
        while again:
            again = False
            for name, data in client(timeout=None).events(opened=self._pending):
                if name == "approval.requested":
                    self._asked(str(data.get("approval")))
                elif name == "subscription.gap":
                    self._pending()
                elif name.startswith("approval."):
                    self._over(data)
                # While a person thought, more events came than are kept for one listener: listen anew.
                again = name == "subscription.dropped"

    def _pending(self) -> None:
        found = client().call("GET", "/v1/approvals", state="pending", limit=1000)["approvals"]
        self._seen &= {q["id"] for q in found}  # nobody asks about the others any more
        for asked in sorted(found, key=lambda q: (q.get("created") or "", q["id"])):
            if asked["id"] not in self._seen:
                self._seen.add(asked["id"])
                self._show(asked)

    def _asked(self, ident: str) -> None:
        """One that is new. It alone is fetched: a list of all that wait, for each of them, would be their square."""
        if ident in self._seen:
            return
        try:
            asked = client().call("GET", f"/v1/approvals/{ident}")
        except errors.NotFound:  # over and forgotten already
            return
        if asked["state"] == "pending":
            self._seen.add(ident)
            self._show(asked)

    def _show(self, asked: Mapping[str, Any]) -> None:
        if self._as_object:
            click.echo(json.dumps(asked, ensure_ascii=True))
            return
        click.echo(question.page(asked, time.time(), colour=show.coloured(), uid=os.getuid()))
        if self._asks and asked["asker"].get("uid") != os.getuid():
            self._answer(asked)
        click.echo()

    def _answer(self, asked: Mapping[str, Any]) -> None:
        while True:
            # What was typed before this question was seen is no answer to it.
            termios.tcflush(0, termios.TCIFLUSH)
            prompt = f"\n{_KEYS}\n{show.safe(asked['id'])}"
            answer = chosen(click.prompt(prompt, prompt_suffix="? ", default="later", show_default=False))
            if answer is None:
                click.echo("That is none of the answers.")
                continue
            verb, body = answer
            if verb == "quit":
                raise click.exceptions.Exit(0)
            if verb == "later":
                return
            try:
                done = privileged("POST", f"/v1/approvals/{asked['id']}/{verb}", body, code=None)
            except errors.Unavailable:
                raise
            except errors.StockadeError as e:  # not allowed, of another's scope, or answered by somebody meanwhile
                report(e)
                if not isinstance(e, (errors.InvalidRequest, errors.Denied)):
                    return
                continue
            click.echo(approvals.said(done))
            return

    def _over(self, data: Mapping[str, Any]) -> None:
        if data.get("state") != "pending":
            self._seen.discard(str(data.get("approval")))
        if not self._as_object and data.get("state") not in (None, "pending"):
            who = f" by uid {data['by']}" if data.get("by") is not None else ""
            click.echo(f"{show.safe(data.get('approval'))}: {show.safe(data['state'])}{who}")


def chosen(line: str) -> tuple[str, dict[str, Any]] | None:
    """What a typed answer means: (verb of the API, body); None when it means nothing.

    >>> chosen("3x"), chosen("30m"), chosen("n not on a Friday")
    (('approve', {'scope': 'times', 'times': 3}), ('approve', {'scope': 'until', 'duration': '30m'}), \
('deny', {'note': 'not on a Friday'}))
    """
    text = line.strip()
    word, _, rest = text.partition(" ")
    word, rest = word.lower(), rest.strip()
    if word in ("n", "no"):
        return "deny", {"note": rest} if rest else {}
    if rest:
        return None
    plain: dict[str, tuple[str, dict[str, Any]]] = {
        "y": ("approve", {"scope": "once"}),
        "t": ("approve", {"scope": "target"}),
        "s": ("approve", {"scope": "session"}),
        "l": ("later", {}),
        "q": ("quit", {}),
    }
    full = {"yes": "y", "once": "y", "target": "t", "session": "s", "later": "l", "quit": "q"}
    if (found := plain.get(full.get(word, word))) is not None:
        return found
    if (count := _COUNT.fullmatch(word)) and int(count[1] or count[2]) > 0:
        return "approve", {"scope": "times", "times": int(count[1] or count[2])}
    if _TIME.fullmatch(word):
        return "approve", {"scope": "until", "duration": word}
    return None
