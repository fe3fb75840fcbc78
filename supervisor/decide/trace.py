"""What took part in a decision, step by step, for whoever asks why. Costs nothing where nobody asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Effect = Literal["allow", "deny", "ask", "limit", "narrow", "note"]


@dataclass(frozen=True, slots=True)
class Step:
    """One rule that was looked at: its key in policy, FILE:LINE, what it did, and why in a sentence."""

    rule: str
    source: str
    effect: Effect
    detail: str


@dataclass(frozen=True, slots=True)
class Reason:
    """Why somebody has to be asked. `start` and `end` mark the part of the command, -1 where it is about all of it.

    `subject` is what a grant for a whole session would be given for; with `blanket` False there is no such grant.
    """

    rule: str
    source: str
    detail: str
    subject: str
    start: int = -1
    end: int = -1
    blanket: bool = True


class Trace(list[Step]):
    """The steps of one decision."""

    def step(self, rule: str, source: str, effect: Effect, detail: str) -> None:
        self.append(Step(rule, source, effect, detail))
