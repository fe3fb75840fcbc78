"""Questions, grants, access, codes and what holds an agent up: what the commands ask, print, and exit with."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.cli import question, show, watching

if TYPE_CHECKING:
    from collections.abc import Callable

APPROVAL, OTHER, GRANT = "apr-7f3k2m9q", "apr-2222222222", "gra-2x4k9m7q"
ESCAPE = "\x1b]0;owned\x07\u202e\u200b"

ASKED: dict[str, Any] = {
    "id": APPROVAL,
    "kind": "run",
    "state": "pending",
    "asker": {"uid": 424242, "pid": 7, "unit": "zeroclaw.service"},
    "labels": {"agent": "reviewer"},
    "session": "ses-0123456789",
    "what": {
        "tool": "shell",
        "argv": ["git", "push", "-f", "origin"],
        "cwd": "/srv/ws",
        "workspace": "/srv/ws",
        "profile": "shell",
        "env_names": ["GIT_SSH"],
        "readonly": False,
        "files": [{"path": "/srv/ws/build.sh", "sha256": "ab" * 32, "size": 4096, "head": f"#!/bin/sh\n{ESCAPE}rm\n"}],
    },
    "reasons": [
        {
            "rule": "autonomy.approval_patterns[0]", "source": "policy.toml:3", "detail": "'git push -f' is 'git push'",
            "subject": "pattern git push", "start": 4, "end": 11, "blanket": True,
        }
    ],
    "created": "2026-01-02T03:04:05.678Z",
    "expires": "2100-01-02T03:04:05.678Z",
    "needed": 1,
    "answers": [],
}  # fmt: skip


def answered(**answer: Any) -> dict[str, Any]:
    given = {"uid": 0, "approve": True, "scope": "once", "times": None, "duration_ms": None, "note": "", **answer}
    return {**ASKED, "state": "approved" if given["approve"] else "denied", "answers": [given]}


def problem(code: str, status: int, **members: Any) -> Callable[[Any], None]:
    document = {"code": code, "status": status, "title": code, "detail": code, **members}
    return lambda h: h.bytes(json.dumps(document).encode(), "application/problem+json", status)


# --- show ----------------------------------------------------------------------------------------------------------


def test_show_prints_exactly_what_would_run_with_carets_below_the_risky_part(service: Any, stockade: Any) -> None:
    service.routes["GET", f"/v1/approvals/{APPROVAL}"] = ASKED
    ended = stockade("approvals", "show", APPROVAL)
    lines = ended.stdout.decode().splitlines()
    command = lines.index("  git push -f origin")
    assert lines[command + 1] == "      ^^^^^^^"
    for line in (
        "who asks: zeroclaw.service (agent=reviewer), uid 424242, pid 7",
        "in: /srv/ws",
        "profile: shell",
        "session: ses-0123456789",
        "variables: GIT_SSH",
        "readonly: no",
        "file: /srv/ws/build.sh, 4K",
        f"  SHA-256 {'ab' * 32}",
        "  | … (only its head is shown)",
        "because: 'git push -f' is 'git push'",
        "  rule: autonomy.approval_patterns[0] (policy.toml:3)",
    ):
        assert line in lines
    assert r"  | \x1b]0;owned\x07\u202e\u200brm" in lines
    assert any("--session" in line and "pattern git push" in line for line in lines)
    assert not re.search("[\x00-\x09\x0b-\x1f\u200b\u202e]", ended.stdout.decode())
    assert json.loads(stockade("approvals", "show", APPROVAL, "--json").stdout) == ASKED


def test_on_a_terminal_the_risky_part_is_red_and_with_no_color_it_has_carets(service: Any, stockade: Any) -> None:
    service.routes["GET", f"/v1/approvals/{APPROVAL}"] = ASKED

    def seen(**env: str) -> str:
        ours, theirs = pty.openpty()
        try:
            assert stockade("approvals", "show", APPROVAL, stdout=theirs, env=env).returncode == 0
            return os.read(ours, 65536).decode()
        finally:
            os.close(ours)
            os.close(theirs)

    assert "  git \x1b[31m\x1b[1m\x1b[4mpush -f\x1b[0m origin" in seen()
    plain = seen(NO_COLOR="1")
    assert "\x1b" not in plain
    assert "  git push -f origin\r\n      ^^^^^^^\r\n" in plain


def page(**changes: Any) -> str:
    return question.page({**ASKED, **changes}, 0.0, colour=False, uid=0)


def test_words_with_spaces_and_quotes_stand_alone_too() -> None:
    """`git commit -m "a; rm -rf /"` and the same without quotes must not look alike."""
    shown = page(what={"tool": "shell", "argv": ["git", "commit", "-m", "a; rm"]}, reasons=[])
    assert "words:\n  0: git\n  1: commit\n  2: -m\n  3: 'a; rm'" in shown
    assert "words:" not in page(what={"tool": "shell", "argv": ["git", "status"]}, reasons=[])


def test_a_script_is_shown_line_by_line_with_its_marks() -> None:
    script = "echo ok\nécho x | sh\n"
    reason = {**ASKED["reasons"][0], "start": 8, "end": 18}
    shown = page(what={"tool": "shell", "script": script}, reasons=[reason])
    assert "script:\n  echo ok\n  écho x | sh\n  ^^^^^^^^^^\n" in shown


def test_what_is_cut_says_how_long_it_is_in_all() -> None:
    marker = {"truncated": True, "bytes": 70000, "sha256": "cd" * 32, "head": "echo a"}
    shown = page(what={"tool": "shell", "script": marker}, reasons=[])
    assert "  echo a\n" in shown
    assert f"cut: this is only its head; 70000 bytes in all, SHA-256 {'cd' * 32}" in shown


def test_a_yes_for_the_session_is_not_offered_for_what_nobody_knows() -> None:
    closed = {**ASKED["reasons"][0], "blanket": False, "detail": "dynamic: $x"}
    assert "--session  not here: nobody can say what else it would be (dynamic: $x)" in page(reasons=[closed])
    assert "--session  not here: the request has no session that lives on" in page(session=None)


def test_ones_own_question_says_that_somebody_else_has_to_answer() -> None:
    shown = question.page(ASKED, 0.0, colour=False, uid=424242)
    assert "You asked this yourself" in shown
    assert "stockade approvals withdraw" in shown
    assert "--times" not in shown


def test_two_people_are_counted() -> None:
    yes = answered()["answers"]
    assert "people: 1 of 2 have said yes" in page(needed=2, answers=yes)


def test_a_role_and_an_order_are_shown_as_what_they_are() -> None:
    access = {"kind": "access", "what": {"role": "administrator", "duration_ms": 3_600_000, "reason": "disk full"}}
    assert question.what({**ASKED, **access}) == "role administrator for 60m"
    assert "reason: disk full" in page(**access, reasons=[])
    order = {"kind": "operation", "what": {"permission": "config:write", "parameters": {"order": "reload"}}}
    assert question.what({**ASKED, **order}) == "config:write order=reload"
    assert "permission: config:write\nparameters.order: reload" in page(**order, reasons=[])
    assert "the same order, given again" in page(**order, reasons=[])


@given(st.text(st.characters()), st.integers(-2, 30), st.integers(-2, 30), st.booleans())
def test_marking_never_loses_a_character_or_lets_one_out(text: str, start: int, end: int, colour: bool) -> None:
    lines = list(question.marked(text, [(start, end)], colour=colour))
    written = [show.safe(line) for line in text.split("\n")]
    if colour:
        assert [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines] == written
    else:
        for line in written:  # in their order, with lines of carets between them
            while (found := lines.pop(0)) != line:
                assert set(found) <= {" ", "^"}
        assert all(set(line) <= {" ", "^"} for line in lines)


# --- list and answer -----------------------------------------------------------------------------------------------


def test_list_is_a_table_of_who_wants_what_and_why(service: Any, stockade: Any) -> None:
    service.routes["GET", "/v1/approvals"] = {"approvals": [ASKED]}
    for args in ((), ("list",), ("list", "--state", "all", "--limit", "5")):
        head, row = stockade("approvals", *args).stdout.decode().splitlines()
        assert head.split() == ["APPROVAL", "STATE", "AGE", "LEFT", "WHO", "WHAT", "WHY"]
        assert row.startswith(f"{APPROVAL}  pending  ")
        assert "zeroclaw.service (agent=reviewer)" in row
        assert "git push -f origin" in row
    paths = [path for _, path, _ in service.requests]
    assert paths[0].endswith("?state=pending&limit=100")
    assert paths[2].endswith("?state=all&limit=5")
    full = stockade("approvals", "list", "--limit", "1").stdout.decode()
    assert full.endswith("These are the 1 that came last; there may be others: --limit\n")


@pytest.mark.parametrize(
    ("args", "body"),
    [
        ((), {"scope": "once"}),
        (("--once", "--note", "ok"), {"scope": "once", "note": "ok"}),
        (("--times", "3"), {"scope": "times", "times": 3}),
        (("--for", "30m"), {"scope": "until", "duration": "30m"}),
        (("--for", "90"), {"scope": "until", "duration": "90s"}),
        (("--times", "3", "--for", "1h"), {"scope": "times", "times": 3, "duration": "1h"}),
        (("--session",), {"scope": "session"}),
        (("--target", "--for", "2h"), {"scope": "target", "duration": "2h"}),
    ],
)
def test_approve_says_for_how_much(service: Any, stockade: Any, args: Any, body: Any) -> None:
    service.routes["POST", f"/v1/approvals/{APPROVAL}/approve"] = answered(times=body.get("times"))
    ended = stockade("approvals", "approve", APPROVAL, *args)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert service.bodies("POST", f"/v1/approvals/{APPROVAL}/approve") == [body]


@pytest.mark.parametrize("args", [("--times", "3", "--session"), ("--times", "0"), ("--times", "x"), ("--forever",)])
def test_approve_refuses_what_does_not_go_together(service: Any, stockade: Any, args: Any) -> None:
    assert stockade("approvals", "approve", APPROVAL, *args).returncode == 2
    assert service.requests == []


def test_what_was_answered_is_told(service: Any, stockade: Any) -> None:
    service.routes["POST", f"/v1/approvals/{APPROVAL}/approve"] = answered(scope="times", times=3, duration_ms=1800000)
    assert stockade("approvals", "approve", APPROVAL).stdout == f"{APPROVAL}: approved (3 times, for 30m)\n".encode()
    first = {**answered(), "state": "pending", "needed": 2}
    service.routes["POST", f"/v1/approvals/{APPROVAL}/approve"] = first
    assert b"it takes 1 more by somebody else" in stockade("approvals", "approve", APPROVAL).stdout
    service.routes["POST", f"/v1/approvals/{APPROVAL}/deny"] = answered(approve=False, note="use a branch")
    ended = stockade("approvals", "deny", APPROVAL, "--note", "use a branch")
    assert ended.stdout == f"{APPROVAL}: denied: use a branch\n".encode()
    assert service.bodies("POST", f"/v1/approvals/{APPROVAL}/deny") == [{"note": "use a branch"}]


def test_withdraw_takes_it_back(service: Any, stockade: Any) -> None:
    service.routes["DELETE", f"/v1/approvals/{APPROVAL}"] = {**ASKED, "state": "cancelled"}
    assert stockade("approvals", "withdraw", APPROVAL).stdout == f"{APPROVAL}: cancelled\n".encode()


def test_ones_own_question_is_refused_with_the_services_sentence(service: Any, stockade: Any) -> None:
    refusal = problem("denied", 403, detail="nobody answers their own request", hint="let somebody else answer")
    service.routes["POST", f"/v1/approvals/{APPROVAL}/approve"] = refusal
    ended = stockade("approvals", "approve", APPROVAL)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[:2] == [
        b"stockade: nobody answers their own request",
        b"hint: let somebody else answer",
    ]


@pytest.mark.parametrize(("state", "status"), [("approved", 0), ("denied", 1), ("expired", 1), ("pending", 1)])
def test_wait_exits_by_the_answer(service: Any, stockade: Any, state: str, status: int) -> None:
    service.routes["GET", f"/v1/approvals/{APPROVAL}/wait"] = {**ASKED, "state": state}
    ended = stockade("approvals", "wait", APPROVAL, "--timeout", "5")
    assert ended.returncode == status
    assert service.requests[0][1].endswith("?timeout=5s")


# --- watch ---------------------------------------------------------------------------------------------------------


def watched(service: Any, *events: tuple[str, dict[str, Any]]) -> None:
    """The first question is pending; the second is asked while somebody listens."""
    listed = threading.Event()
    second = {**ASKED, "id": OTHER, "created": "2026-01-02T03:04:06Z"}

    def answer(handler: Any) -> None:
        handler.json({"approvals": [ASKED]})
        listed.set()

    def stream(handler: Any) -> None:
        handler.stream("text/event-stream")
        handler.chunk(b": stockade\n\n")
        assert listed.wait(30)  # what was asked before somebody listened is listed, so nothing can be missed
        for name, data in events:
            handler.chunk(f"event: {name}\ndata: {json.dumps(data)}\n\n".encode())
        handler.chunk(b"")

    service.routes["GET", "/v1/approvals"] = answer
    service.routes["GET", f"/v1/approvals/{OTHER}"] = second
    service.routes["GET", "/v1/events"] = stream


EVENTS = (
    ("run.started", {"run": "run-0123456789"}),
    ("approval.requested", {"approval": OTHER}),
    ("approval.answered", {"approval": APPROVAL, "state": "approved", "by": 7}),
)


@pytest.mark.parametrize("args", [("--watch",), ("list", "--watch")])
def test_watch_shows_each_question_once_and_what_becomes_of_it(service: Any, stockade: Any, args: Any) -> None:
    watched(service, *EVENTS)
    out = stockade("approvals", *args).stdout.decode()
    assert out.count(f"{APPROVAL}: pending") == 1
    assert out.count(f"{OTHER}: pending") == 1
    assert out.rstrip().endswith(f"{APPROVAL}: approved by uid 7")


def test_watch_for_programs_is_one_object_a_line(service: Any, stockade: Any) -> None:
    watched(service, *EVENTS)
    lines = stockade("approvals", "--watch", "--json").stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [APPROVAL, OTHER]


def test_watch_is_about_what_is_pending(service: Any, stockade: Any) -> None:
    assert stockade("approvals", "list", "--watch", "--state", "all").returncode == 2


class Typing:
    """A terminal with somebody who types when a question is there; or before, `ahead`."""

    def __init__(self, start: Any, ahead: bytes = b"") -> None:
        self._ours, theirs = pty.openpty()
        self.seen = b""
        os.write(self._ours, ahead)
        self.process = start("approvals", "--watch", stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)

    def until(self, word: str) -> None:
        """Read on until this is seen; what was before it is done with."""
        while word.encode() not in self.seen:
            self.seen += os.read(self._ours, 65536)
        self.seen = self.seen.partition(word.encode())[2]

    def type(self, line: bytes) -> None:
        os.write(self._ours, line + b"\n")

    def close(self) -> int:
        status = int(self.process.wait(60))
        os.close(self._ours)
        return status


def test_on_a_terminal_a_question_is_answered_with_one_key(service: Any, start: Any) -> None:
    watched(service, *EVENTS[:2])
    for ident in (APPROVAL, OTHER):
        service.routes["POST", f"/v1/approvals/{ident}/approve"] = {**answered(), "id": ident}
        service.routes["POST", f"/v1/approvals/{ident}/deny"] = {**answered(approve=False, note="no"), "id": ident}
    person = Typing(start)
    person.until(f"{APPROVAL}? ")
    person.type(b"what?")
    person.until("That is none of the answers.")
    person.until(f"{APPROVAL}? ")
    person.type(b"30m")
    person.until(f"{OTHER}? ")
    person.type(b"n not on a Friday")
    person.until(f"{OTHER}: denied")
    person.close()
    assert service.bodies("POST", f"/v1/approvals/{APPROVAL}/approve") == [{"scope": "until", "duration": "30m"}]
    assert service.bodies("POST", f"/v1/approvals/{OTHER}/deny") == [{"note": "not on a Friday"}]


def test_what_was_typed_before_a_question_was_seen_is_no_answer_to_it(service: Any, start: Any) -> None:
    """An agent that sees one question answered can ask the next one at the moment in which a person types on."""
    watched(service, *EVENTS[:1])
    service.routes["POST", f"/v1/approvals/{APPROVAL}/approve"] = answered()
    person = Typing(start, ahead=b"y\ny\n")
    person.until(f"{APPROVAL}? ")
    person.type(b"q")
    assert person.close() == 0
    assert service.bodies("POST", f"/v1/approvals/{APPROVAL}/approve") == []


def test_watch_does_not_stumble_over_a_question_that_is_gone(service: Any, stockade: Any) -> None:
    watched(service, ("approval.requested", {"approval": "apr-gone"}), ("approval.requested", {"approval": OTHER}))
    service.routes["GET", "/v1/approvals/apr-gone"] = problem("not_found", 404)
    lines = stockade("approvals", "--watch", "--json").stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [APPROVAL, OTHER]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("y", ("approve", {"scope": "once"})),
        ("YES", ("approve", {"scope": "once"})),
        ("s", ("approve", {"scope": "session"})),
        ("target", ("approve", {"scope": "target"})),
        ("3x", ("approve", {"scope": "times", "times": 3})),
        ("x3", ("approve", {"scope": "times", "times": 3})),
        ("45s", ("approve", {"scope": "until", "duration": "45s"})),
        ("n", ("deny", {})),
        ("no  not now ", ("deny", {"note": "not now"})),
        ("later", ("later", {})),
        ("q", ("quit", {})),
        ("0x", None),
        ("yes please", None),
        ("30", None),
        ("", None),
        ("yess", None),
    ],
)
def test_a_typed_answer_means_one_thing_or_nothing(typed: str, meant: Any) -> None:
    assert watching.chosen(typed) == meant


@given(st.text())
def test_only_what_says_yes_is_a_yes(text: str) -> None:
    found = watching.chosen(text)
    if found is not None and found[0] == "approve":
        word = text.strip().lower()
        known = {"y", "yes", "once", "t", "target", "s", "session"}
        assert word in known or re.fullmatch(r"[0-9]+[xsmh]|x[0-9]+", word)


# --- one-time codes ------------------------------------------------------------------------------------------------


def takes_code(service: Any, route: tuple[str, str], answer: Any) -> list[str | None]:
    codes: list[str | None] = []

    def handle(handler: Any) -> None:
        codes.append(handler.headers.get("X-Stockade-Code"))
        if codes[-1] == "123456":
            handler.json(answer)
        else:
            problem("step_up_required", 403, detail="this takes a one-time code")(handler)

    service.routes[route] = handle
    return codes


@pytest.mark.parametrize(
    ("args", "route", "answer"),
    [
        (("policy", "reload"), ("POST", "/v1/policy/reload"), {"digest": "cd"}),
        (("stop",), ("POST", "/v1/stop"), {"runs": 0, "sessions": 0}),
        (("resume",), ("POST", "/v1/resume"), {"stopped": False}),
        (("grants", "revoke", GRANT), ("DELETE", f"/v1/grants/{GRANT}"), {"id": GRANT, "ended": "revoked"}),
        (("breakers", "reset", "uid:1/a"), ("POST", "/v1/breakers/reset"), {"state": "closed"}),
        (("approvals", "approve", APPROVAL), ("POST", f"/v1/approvals/{APPROVAL}/approve"), answered()),
        (("approvals", "deny", APPROVAL), ("POST", f"/v1/approvals/{APPROVAL}/deny"), answered(approve=False)),
        (("mfa", "enroll"), ("POST", "/v1/mfa"), {"uri": "otpauth://totp/x", "secret": "ABC"}),
    ],
)
def test_privileged_commands_send_the_code(service: Any, stockade: Any, args: Any, route: Any, answer: Any) -> None:
    codes = takes_code(service, route, answer)
    refused = stockade(*args)
    assert (refused.returncode, refused.stderr.splitlines()[0]) == (1, b"stockade: this takes a one-time code")
    assert stockade(*args, "--code", "123456").returncode == 0
    assert stockade(*args, env={"STOCKADE_CODE": "123456"}).returncode == 0
    assert codes == [None, "123456", "123456"]


def test_on_a_terminal_the_code_is_asked_for_and_not_shown(service: Any, start: Any) -> None:
    codes = takes_code(service, ("POST", "/v1/resume"), {"stopped": False})
    ours, theirs = pty.openpty()
    try:
        process = start("resume", stdin=theirs, stderr=theirs, start_new_session=True)
        seen = b""
        while b"One-time code: " not in seen:
            seen += os.read(ours, 4096)
        os.write(ours, b"123456\n")
        assert process.wait(60) == 0
        os.set_blocking(ours, False)
        seen += os.read(ours, 4096)
    finally:
        os.close(ours)
        os.close(theirs)
    assert codes == [None, "123456"]
    assert b"123456" not in seen


def test_an_order_that_waits_for_approval_says_what_to_do(service: Any, stockade: Any) -> None:
    service.routes["POST", "/v1/policy/reload"] = problem(
        "approval_required", 202, approval=APPROVAL, expires="2100-01-02T03:04:05Z", retry="after_approval"
    )
    ended = stockade("policy", "reload")
    said = ended.stderr.decode()
    assert (ended.returncode, ended.stdout) == (1, b"")
    assert f"approval: {APPROVAL}, until 2100-01-02T03:04:05Z" in said
    assert f"stockade approvals approve {APPROVAL}" in said


# --- the others ----------------------------------------------------------------------------------------------------


def test_grants_say_for_whom_for_what_and_how_long(service: Any, stockade: Any) -> None:
    given_one = {
        "id": GRANT, "question": APPROVAL, "kind": "run", "scope": "target", "uid": 1000, "unit": "", "role": None,
        "target": "ab" * 32, "session": None, "subjects": [], "by": [0, 7], "until": "2100-01-02T03:04:05Z",
        "used": 1, "left": 2, "ended": None,
    }  # fmt: skip
    session = {**given_one, "scope": "session", "session": "ses-1", "subjects": ["pattern a"], "left": None}
    role = {**given_one, "scope": "role", "role": "administrator", "unit": "zeroclaw.service"}
    service.routes["GET", "/v1/grants"] = {"grants": [given_one, session, role]}
    _, one, two, three = stockade("grants").stdout.decode().splitlines()
    assert "exactly abababababab  1     2 " in one
    assert "uid 0, uid 7" in one
    assert "ses-1: pattern a" in two
    assert " any " in two
    assert "zeroclaw.service  role administrator" in three


def test_access_is_asked_for_and_listed(service: Any, stockade: Any) -> None:
    what = {"role": "administrator", "duration_ms": 3_600_000, "reason": "disk"}
    asked = {**ASKED, "kind": "access", "what": what}
    service.routes["POST", "/v1/access"] = lambda h: h.json(asked, 202)
    ended = stockade("access", "request", "--role", "administrator", "--duration", "1h", "--reason", "disk")
    assert ended.stdout == f"{APPROVAL}\n".encode()
    assert service.bodies("POST", "/v1/access") == [{"role": "administrator", "duration": "1h", "reason": "disk"}]
    service.routes["GET", "/v1/approvals"] = {"approvals": [ASKED, asked]}
    service.routes["GET", "/v1/grants"] = {"grants": []}
    _, row = stockade("access", "list").stdout.decode().splitlines()
    assert "role administrator for 60m  asked for" in row
    assert stockade("access", "request", "--role", "x").returncode == 2


def test_tools_are_listed_with_their_rule_and_checked_by_exit_status(service: Any, stockade: Any) -> None:
    shell = {"tool": "shell", "allowed": True, "rule": "tools.shell_enabled", "source": "p.toml:1", "reason": "on"}
    browser = {**shell, "tool": "browser", "allowed": False, "rule": "tools.browser_enabled", "reason": "off"}
    service.routes["GET", "/v1/tools"] = {"tools": [shell, browser]}
    service.routes["GET", "/v1/tools/shell"] = shell
    service.routes["GET", "/v1/tools/browser"] = browser
    _, one, two = stockade("tools").stdout.decode().splitlines()
    assert one.split() == ["shell", "yes", "tools.shell_enabled", "p.toml:1", "on"]
    assert two.split()[:2] == ["browser", "no"]
    assert stockade("tools", "check", "shell").returncode == 0
    ended = stockade("tools", "check", "browser")
    assert (ended.returncode, ended.stdout.splitlines()[0]) == (1, b"browser: not allowed")
    assert stockade("tools", "check", "../runs").returncode == 1
    assert service.requests[-1][1] == "/v1/tools/..%2Fruns"


def test_breakers_queue_and_usage_are_tables(service: Any, stockade: Any) -> None:
    key = "unit:zeroclaw.service/reviewer"
    breaker = {"key": key, "state": "half_open", "failures": 5, "since": None, "until": "2100-01-02T03:04:05Z"}
    service.routes["GET", "/v1/breakers"] = {"breakers": [{**breaker, "why": "5 failures in a row"}]}
    _, row = stockade("breakers").stdout.decode().splitlines()
    assert row.startswith(f"{key}  half open  5 ")
    assert row.endswith("5 failures in a row")
    service.routes["POST", "/v1/breakers/reset"] = {**breaker, "state": "closed"}
    assert stockade("breakers", "reset", key).stdout == f"{key}: closed\n".encode()
    assert service.bodies("POST", "/v1/breakers/reset") == [{"key": key}]

    entry = {"id": "run-0123456789", "position": 1, "since": "2026-01-02T03:04:05Z", "agent": "uid:7/a"}
    service.routes["GET", "/v1/queue"] = {"queue": [{**entry, "argv": ["make", "-j"], "waits_for": "a place"}]}
    service.routes["DELETE", "/v1/queue/run-0123456789"] = {}
    _, row = stockade("queue", "list").stdout.decode().splitlines()
    assert row.split()[:2] == ["run-0123456789", "1"]
    assert row.endswith("  uid:7/a  a place  make -j")
    assert stockade("queue", "cancel", "run-0123456789").stdout == b"run-0123456789: cancelled\n"

    common = {"scope": "agent", "of": "reviewer", "rule": "rates[0]", "source": "p.toml:5"}
    rate = {**common, "used": 3, "allowed": 10, "left": 7, "per": "minute"}
    cpu = {**common, "of": "", "used": 90_000, "allowed": 3_600_000, "left": 3_510_000, "unit": "ms of CPU time"}
    disk = {**common, "scope": "caller", "of": "", "used": 1536, "allowed": 1 << 30, "left": 0, "unit": "bytes written"}
    alert = {**common, "rule": "alerts.failed_per_hour", "used": 4, "allowed": 10, "left": 6, "per": "hour"}
    alert |= {"counts": "failed", "action": "ask"}
    answer = {"rates": [rate], "budgets": [cpu, disk], "alerts": [alert], "day_ends_in": 3600.0, "runs_per_agent": 4}
    service.routes["GET", "/v1/usage"] = answer | {"running": {"": 1, "reviewer": 2}}
    lines = [re.sub(" {2,}", "|", line) for line in stockade("usage").stdout.decode().splitlines()]
    assert lines == [
        "WHAT|PER|OF|USED|ALLOWED|LEFT|RULE|SOURCE",
        "actions|minute|agent reviewer|3|10|7|rates[0]|p.toml:5",
        "CPU time|day, 60m left|agent|90s|60m|58m|rates[0]|p.toml:5",
        "bytes written|day, 60m left|caller|1.5K|1G|0|rates[0]|p.toml:5",
        "failed, then ask|hour|agent reviewer|4|10|6|alerts.failed_per_hour|p.toml:5",
        "running: 1 of at most 4",
        "running: 2 of at most 4 of reviewer",
    ]
    service.routes["GET", "/v1/usage"] = {"rates": [], "budgets": []}
    assert stockade("usage").stdout == b"rates and budgets: none that concern you\n"


def test_a_key_for_codes_is_printed_once(service: Any, stockade: Any) -> None:
    service.routes["POST", "/v1/mfa"] = lambda h: h.json({"uri": "otpauth://totp/x", "secret": "ABC"}, 201)
    assert stockade("mfa", "enroll").stdout == b"otpauth://totp/x\nsecret: ABC\n"


@pytest.mark.parametrize(
    ("words", "index", "route", "answer", "offered"),
    [
        ("approvals approve apr-7", 3, "/v1/approvals", {"approvals": [ASKED, {**ASKED, "id": OTHER}]}, [APPROVAL]),
        ("grants revoke gra", 3, "/v1/grants", {"grants": [{"id": GRANT}]}, [GRANT]),
        ("breakers reset uid", 3, "/v1/breakers", {"breakers": [{"key": "uid:7/a"}]}, ["uid:7/a"]),
        ("tools check br", 3, "/v1/tools", {"tools": [{"tool": "browser"}, {"tool": "shell"}]}, ["browser"]),
        ("queue cancel run", 3, "/v1/queue", {"queue": [{"id": "run-0123456789"}]}, ["run-0123456789"]),
    ],
)
def test_completion_offers_what_the_service_lists(
    service: Any, stockade: Any, words: str, index: int, route: str, answer: Any, offered: list[str]
) -> None:
    service.routes["GET", route] = answer
    env = {"_STOCKADE_COMPLETE": "bash_complete", "COMP_WORDS": f"stockade {words}", "COMP_CWORD": str(index)}
    assert [line.partition(",")[2] for line in stockade(env=env).stdout.decode().split()] == offered


SUBCOMMANDS = [
    *(("approvals", name) for name in ("list", "show", "approve", "deny", "withdraw", "wait")),
    *(("grants", name) for name in ("list", "revoke")),
    *(("access", name) for name in ("request", "list")),
    *(("tools", name) for name in ("list", "check")),
    *(("breakers", name) for name in ("list", "reset")),
    *(("queue", name) for name in ("list", "cancel")),
    ("mfa", "enroll"),
]


@pytest.mark.parametrize("words", SUBCOMMANDS, ids=" ".join)
def test_every_one_explains_itself_with_an_example_and_speaks_json(stockade: Any, words: tuple[str, str]) -> None:
    ended = stockade(*words, "--help")
    assert ended.returncode == 0
    assert f"stockade {words[0]} {words[1]}".encode() in ended.stdout.partition(b"Example")[2]
    assert b"--json" in ended.stdout


@pytest.mark.parametrize("args", [["approvals"], ["approvals", "show", APPROVAL], ["tools"]], ids=" ".join)
def test_they_start_without_the_large_libraries(service: Any, environment: dict[str, str], args: list[str]) -> None:
    service.routes["GET", "/v1/approvals"] = {"approvals": [ASKED]}
    service.routes["GET", f"/v1/approvals/{APPROVAL}"] = ASKED
    service.routes["GET", "/v1/tools"] = {"tools": []}
    program = (
        f"import sys; from supervisor.cli.main import status_of; status = status_of({args!r})\n"
        "large = {'aiohttp', 'pydantic', 'asyncio', 'cryptography', 'psutil', 'rich', 'supervisor.policy.load'}\n"
        "print(status, sorted(large & set(sys.modules)))"
    )
    env = {**environment, "STOCKADE_SOCKET": service.path}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == b"0 []"
