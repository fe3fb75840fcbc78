"""One-time codes (TOTP, RFC 6238), each good once. Secrets lie in the store alone, whose file is 0600.

Everything is decided inside the store's transaction, which one thread carries out: two requests with one code cannot
both succeed, and what was accepted or failed is durable before anybody is told.
"""

from __future__ import annotations

import hmac
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyotp

from supervisor.errors import Conflict, StepUpRequired

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from supervisor.state.store import Store

STEP = 30  # seconds (RFC 6238, section 4.1: X)
WINDOW = 1  # steps that a clock may be off, either way (section 5.2)
SECRET_CHARS = 32  # of base32: 160 bits (RFC 4226, section 4: R6)
FAILURES = 5  # wrong codes in a row, then
LOCK_SECONDS = 300.0  # no code is looked at for so long (R27)
ISSUER = "Stockade"
FIELD = "X-Stockade-Code"

STEPS = (
    """
CREATE TABLE totp (
    uid INTEGER PRIMARY KEY, secret TEXT NOT NULL, last_step INTEGER NOT NULL, failures INTEGER NOT NULL,
    locked_until REAL NOT NULL, created REAL NOT NULL
) STRICT
""",
)


@dataclass(frozen=True, slots=True)
class _Refused:
    """Why a code was not taken; what the transaction wrote down of it stays."""

    detail: str
    hint: str
    retry_after: int | None = None

    def error(self) -> StepUpRequired:
        return StepUpRequired(self.detail, field=FIELD, hint=self.hint, retry_after=self.retry_after)


class Codes:
    """`record` takes ("code" or "enrolled", uid, outcome, reason) of everything that happened, for the audit log."""

    def __init__(
        self,
        store: Store,
        record: Callable[[str, int, str, str | None], None],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._record, self._clock = store, record, clock

    async def load(self) -> None:
        await self._store.migrate("totp", STEPS)

    async def enroll(self, uid: int, code: str | None = None, *, name: str = "") -> dict[str, str]:
        """A new secret, shown this once: {"uri": otpauth URI, "secret": base32}. One that exists takes its code.

        Raises StepUpRequired, Unavailable.
        """
        secret, now = pyotp.random_base32(SECRET_CHARS), self._clock()

        def write(conn: sqlite3.Connection) -> _Refused | None:
            if conn.execute("SELECT 1 FROM totp WHERE uid = ?", (uid,)).fetchone() is not None:
                refused = _try(conn, uid, code, now)
                if refused is not None:
                    return refused
            conn.execute("INSERT OR REPLACE INTO totp VALUES (?, ?, -1, 0, 0, ?)", (uid, secret, now))
            return None

        self._tell("enrolled", uid, await self._store.write(write))
        uri = pyotp.TOTP(secret).provisioning_uri(name=name or f"uid {uid}", issuer_name=ISSUER)
        return {"uri": uri, "secret": secret}

    async def verify(self, uid: int, code: str | None) -> None:
        """Accept a code, once and for all. Raises StepUpRequired: missing, wrong, used before, locked, not enrolled."""
        now = self._clock()
        self._tell("code", uid, await self._store.write(lambda conn: _try(conn, uid, code, now)))

    async def enrolled(self, uid: int) -> bool:
        found: Any = await self._store.read(
            lambda conn: conn.execute("SELECT 1 FROM totp WHERE uid = ?", (uid,)).fetchone()
        )
        return found is not None

    async def forget(self, uid: int) -> None:
        """Of somebody who lost the device; the caller decides who may order that. Raises Conflict, Unavailable."""
        gone = await self._store.write(lambda conn: conn.execute("DELETE FROM totp WHERE uid = ?", (uid,)).rowcount)
        if not gone:
            raise Conflict(f"uid {uid} has no one-time codes", field="uid")
        self._record("enrolled", uid, "removed", None)

    def _tell(self, action: str, uid: int, refused: _Refused | None) -> None:
        self._record(action, uid, "ok" if refused is None else "deny", None if refused is None else refused.detail)
        if refused is not None:
            raise refused.error()


def _try(conn: sqlite3.Connection, uid: int, code: str | None, now: float) -> _Refused | None:
    """Whether this code is good now; what follows of it is written in the same transaction."""
    row = conn.execute("SELECT secret, last_step, failures, locked_until FROM totp WHERE uid = ?", (uid,)).fetchone()
    if row is None:
        return _Refused(f"uid {uid} has no one-time codes yet", "set them up: stockade mfa enroll")
    secret, last, failures, locked_until = row
    if not code:
        return _Refused("this takes a one-time code", f"send the code of the authenticator as {FIELD}")
    if now < locked_until:
        left = int(locked_until - now) + 1
        return _Refused(f"{FAILURES} wrong codes: locked for {left} more seconds", "wait, then send a new code", left)
    if not (len(code) == 6 and code.isascii() and code.isdigit()):
        return _Refused("this is no one-time code", "a code is six digits, as the authenticator shows them")
    step = _step(secret, code, int(now) // STEP)
    if step is not None and step > last:
        conn.execute("UPDATE totp SET last_step = ?, failures = 0 WHERE uid = ?", (step, uid))
        return None
    if step is not None:
        return _Refused("this code was used before, or a later one was", "wait for the next code", STEP)
    failures += 1
    if failures >= FAILURES:
        failures, locked_until = 0, now + LOCK_SECONDS
    conn.execute("UPDATE totp SET failures = ?, locked_until = ? WHERE uid = ?", (failures, locked_until, uid))
    return _Refused("the one-time code is wrong", "see that the authenticator's clock is right; each code is good once")


def _step(secret: str, code: str, current: int) -> int | None:
    """The step that a code is of; every step of the window is computed and compared, wherever it fits.

    The later one wins should two steps have one code: a code that counts as late cannot be sent again.
    """
    otp, found = pyotp.TOTP(secret), None
    for step in range(max(current - WINDOW, 0), current + WINDOW + 1):
        if hmac.compare_digest(otp.generate_otp(step), code):
            found = step
    return found
