"""Variables that come with a request are looked at like `env NAME=VALUE` before the command. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from supervisor.decide.shell.model import Analysis
from supervisor.decide.shell.variables import obeyed

if TYPE_CHECKING:
    from collections.abc import Mapping


def settings(env: Mapping[str, str]) -> tuple[str, ...]:
    """NAME=VALUE of the variables that the loader, a shell or another program obeys. No others are looked at."""
    return tuple(f"{name}={value}" for name, value in sorted(env.items()) if obeyed(name))


def carrier(set_to: tuple[str, ...]) -> tuple[str, ...]:
    """A command that does nothing but to have these settings: its analysis says what they do."""
    return ("env", *set_to, ":")


def beside(found: Analysis, set_to: tuple[str, ...], of_carrier: Analysis) -> Analysis:
    """The analysis of a command together with that of the carrier of its settings; places in the text are none."""
    own = (carrier(set_to), (":",))
    return Analysis(
        commands=found.commands
        + tuple(replace(c, start=-1, end=-1) for c in of_carrier.commands if c.words not in own),
        risks=found.risks + tuple(replace(r, start=-1, end=-1) for r in of_carrier.risks),
        paths=found.paths + tuple(replace(p, start=-1, end=-1) for p in of_carrier.paths if p.path not in set_to),
        scripts=tuple(dict.fromkeys(found.scripts + of_carrier.scripts)),
        parsed=found.parsed and of_carrier.parsed,
        error=found.error or of_carrier.error,
    )
