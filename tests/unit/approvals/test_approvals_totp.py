"""Each one-time code is good once, for its owner, in its time; guessing is stopped (RFC 6238, R27, R65)."""

from __future__ import annotations

import asyncio
import os
import stat
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlparse

import pyotp
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from supervisor.approvals import totp
from supervisor.approvals.totp import Codes
from supervisor.errors import Conflict, StepUpRequired
from supervisor.state.store import Store
from tests.unit.approvals.world import Clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

UID, STRANGER = 2001, 2002


class Desk:
    def __init__(self, path: str) -> None:
        self.path, self.clock = path, Clock()
        self.said: list[tuple[Any, ...]] = []
        self.secret = ""

    async def start(self) -> None:
        self.store = Store(self.path)
        await self.store.open()
        self.codes = Codes(self.store, lambda *said: self.said.append(said), clock=self.clock)
        await self.codes.load()

    async def restart(self) -> None:
        await self.store.close()
        await self.start()

    async def enroll(self) -> None:
        self.secret = (await self.codes.enroll(UID))["secret"]

    def code(self, steps: int = 0) -> str:
        return pyotp.TOTP(self.secret).at(self.clock() + 30 * steps)

    def wrong(self) -> str:
        """A code of no step of the window."""
        good = {self.code(n) for n in (-1, 0, 1)}
        return next(c for c in ("111111", "222222", "333333", "444444") if c not in good)


@pytest_asyncio.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    made = Desk(str(tmp_path / "decisions.db"))
    await made.start()
    await made.enroll()
    yield made
    await made.store.close()


# RFC 6238, appendix B: the SHA-1 rows, their last six digits.
@pytest.mark.parametrize(
    ("time", "code"),
    [
        (59, "287082"),
        (1111111109, "081804"),
        (1111111111, "050471"),
        (1234567890, "005924"),
        (2000000000, "279037"),
        (20000000000, "353130"),
    ],
)
def test_the_codes_are_those_of_the_rfc(time: int, code: str) -> None:
    secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
    assert totp._step(secret, code, time // 30) == time // 30


async def test_enrolling_gives_a_secret_of_160_bits_once_and_the_file_is_for_nobody_else(desk: Desk) -> None:
    made = await desk.codes.enroll(STRANGER, name="anna@host")
    assert len(pyotp.TOTP(made["secret"]).byte_secret()) == 20
    uri = urlparse(made["uri"])
    assert (uri.scheme, uri.netloc, uri.path) == ("otpauth", "totp", "/Stockade:anna%40host")
    assert parse_qs(uri.query) == {"secret": [made["secret"]], "issuer": ["Stockade"]}
    for name in os.listdir(os.path.dirname(desk.path)):
        assert stat.S_IMODE(os.stat(os.path.join(os.path.dirname(desk.path), name)).st_mode) == 0o600


@pytest.mark.parametrize("steps", [-1, 0, 1])
async def test_a_code_of_the_window_is_good(desk: Desk, steps: int) -> None:
    await desk.codes.verify(UID, desk.code(steps))
    assert desk.said[-1] == ("code", UID, "ok", None)


@pytest.mark.parametrize("steps", [-3, -2, 2, 3])
async def test_a_code_outside_of_the_window_is_wrong(desk: Desk, steps: int) -> None:
    with pytest.raises(StepUpRequired, match="is wrong"):
        await desk.codes.verify(UID, desk.code(steps))


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_code_is_good_once_also_over_a_restart(desk: Desk, restarted: bool) -> None:
    code = desk.code()
    await desk.codes.verify(UID, code)
    if restarted:
        await desk.restart()
    with pytest.raises(StepUpRequired, match="used before"):
        await desk.codes.verify(UID, code)
    with pytest.raises(StepUpRequired, match="used before"):
        await desk.codes.verify(UID, desk.code(-1))  # an earlier one is not good either
    desk.clock.advance(30)
    await desk.codes.verify(UID, desk.code())


async def test_one_code_at_the_same_moment_is_good_once(desk: Desk) -> None:
    code = desk.code()
    found = await asyncio.gather(*(desk.codes.verify(UID, code) for _ in range(20)), return_exceptions=True)
    assert found.count(None) == 1
    assert {type(f) for f in found if f is not None} == {StepUpRequired}


async def test_five_wrong_codes_lock_for_five_minutes_whoever_knows_the_right_one(desk: Desk) -> None:
    for _ in range(5):
        with pytest.raises(StepUpRequired, match="is wrong"):
            await desk.codes.verify(UID, desk.wrong())
    for _ in range(2):
        with pytest.raises(StepUpRequired, match="locked for 301 more seconds") as caught:
            await desk.codes.verify(UID, desk.code())
        await desk.restart()
    assert caught.value.extra["retry_after"] == 301
    desk.clock.advance(299.9)
    with pytest.raises(StepUpRequired, match="locked"):
        await desk.codes.verify(UID, desk.code())
    desk.clock.advance(0.1)
    for _ in range(4):  # counting begins anew
        with pytest.raises(StepUpRequired, match="is wrong"):
            await desk.codes.verify(UID, desk.wrong())
    await desk.codes.verify(UID, desk.code())


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_clock_that_is_set_back_makes_no_code_good_again_and_no_lock_shorter(
    desk: Desk, restarted: bool
) -> None:
    used = [desk.code()]
    await desk.codes.verify(UID, used[0])
    desk.clock.advance(60)
    used.append(desk.code())
    await desk.codes.verify(UID, used[1])
    desk.clock.time -= 60
    if restarted:
        await desk.restart()
    for code in (*used, desk.code(1)):
        with pytest.raises(StepUpRequired):
            await desk.codes.verify(UID, code)
    desk.clock.advance(120)
    for _ in range(5):
        with pytest.raises(StepUpRequired):
            await desk.codes.verify(UID, desk.wrong())
    desk.clock.time -= 3600
    if restarted:
        await desk.restart()
    with pytest.raises(StepUpRequired, match="locked"):
        await desk.codes.verify(UID, desk.code())


async def test_wrong_codes_at_the_same_moment_all_count(desk: Desk) -> None:
    wrong = desk.wrong()
    found = await asyncio.gather(*(desk.codes.verify(UID, wrong) for _ in range(8)), return_exceptions=True)
    assert sum("is wrong" in str(f) for f in found) == 5
    assert sum("locked" in str(f) for f in found) == 3


async def test_a_right_code_forgives_the_wrong_ones_and_a_used_one_counts_as_none(desk: Desk) -> None:
    for _ in range(4):
        with pytest.raises(StepUpRequired):
            await desk.codes.verify(UID, desk.wrong())
    code = desk.code()
    await desk.codes.verify(UID, code)
    for _ in range(6):
        with pytest.raises(StepUpRequired, match="used before"):
            await desk.codes.verify(UID, code)
    for _ in range(4):
        with pytest.raises(StepUpRequired, match="is wrong"):
            await desk.codes.verify(UID, desk.wrong())
    desk.clock.advance(30)
    await desk.codes.verify(UID, desk.code())


@pytest.mark.parametrize("code", [None, ""])
async def test_without_a_code_the_error_says_how_to_send_one(desk: Desk, code: str | None) -> None:
    with pytest.raises(StepUpRequired, match="takes a one-time code") as caught:
        await desk.codes.verify(UID, code)
    assert caught.value.field == "X-Stockade-Code"
    assert caught.value.hint is not None
    assert "X-Stockade-Code" in caught.value.hint


@given(st.text(min_size=1).filter(lambda t: not (len(t) == 6 and t.isascii() and t.isdigit())))
def test_what_is_no_code_is_never_compared(text: str) -> None:
    import sqlite3

    conn = sqlite3.connect(":memory:", isolation_level=None)
    conn.execute(totp.STEPS[0])
    conn.execute("INSERT INTO totp VALUES (1, ?, -1, 0, 0, 0)", (pyotp.random_base32(),))
    refused = totp._try(conn, 1, text, 0.0)
    assert refused is not None
    assert refused.detail == "this is no one-time code"
    assert conn.execute("SELECT failures FROM totp").fetchone() == (0,)
    conn.close()


async def test_who_is_not_enrolled_is_told_how(desk: Desk) -> None:
    assert not await desk.codes.enrolled(STRANGER)
    with pytest.raises(StepUpRequired, match="no one-time codes yet") as caught:
        await desk.codes.verify(STRANGER, desk.code())
    assert caught.value.hint == "set them up: stockade mfa enroll"
    assert desk.said[-1][:3] == ("code", STRANGER, "deny")


async def test_a_code_of_somebody_else_is_wrong(desk: Desk) -> None:
    await desk.codes.enroll(STRANGER)
    with pytest.raises(StepUpRequired, match="is wrong"):
        await desk.codes.verify(STRANGER, desk.code())


async def test_enrolling_anew_takes_a_code_of_the_old_secret(desk: Desk) -> None:
    old = desk.secret
    for code in (None, desk.wrong()):
        with pytest.raises(StepUpRequired):
            await desk.codes.enroll(UID, code)
    code = desk.code()
    new = (await desk.codes.enroll(UID, code))["secret"]
    assert new != old
    with pytest.raises(StepUpRequired):
        await desk.codes.verify(UID, pyotp.TOTP(old).at(desk.clock() + 30))
    await desk.codes.verify(UID, pyotp.TOTP(new).at(desk.clock()))


async def test_two_who_enroll_with_one_code_get_one_secret(desk: Desk) -> None:
    code = desk.code()
    found = await asyncio.gather(*(desk.codes.enroll(UID, code) for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(f, dict) for f in found) == 1


async def test_a_lost_device_can_be_forgotten(desk: Desk) -> None:
    await desk.codes.forget(UID)
    assert not await desk.codes.enrolled(UID)
    with pytest.raises(Conflict, match="no one-time codes"):
        await desk.codes.forget(UID)
    await desk.codes.enroll(UID)


async def test_no_secret_and_no_code_is_told_to_the_log(desk: Desk) -> None:
    code = desk.code()
    await desk.codes.verify(UID, code)
    with pytest.raises(StepUpRequired):
        await desk.codes.verify(UID, desk.wrong())
    told = repr(desk.said)
    assert desk.secret not in told
    assert code not in told
