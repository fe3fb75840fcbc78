"""A yes is bound to exactly what was shown: whatever changes makes another target."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.approvals.model import (
    MEMBER_BYTES,
    SHOWN_BYTES,
    Answer,
    Grant,
    Question,
    Target,
    digest_of,
    new_id,
    pack,
)
from supervisor.errors import TooLarge
from tests.unit.approvals.world import AGENT, REASON, TARGET

OTHER: dict[str, Any] = {
    "uid": 1001,
    "unit": "other.service",
    "tool": "file",
    "argv": ("git", "push", "--force", ""),
    "script": "git push --force",
    "cwd": "/srv/ws/sub",
    "env_names": ("A", "B", "LD_PRELOAD"),
    "stdin": "stream",
    "workspace": "/srv/ws2",
    "profile": "wide",
    "readonly": True,
    "network": "loopback",
    "files": (("/srv/ws/x.sh", "ce" * 32),),
    "policy_digest": "ac" * 32,
    "env": "ef" * 32,
    "labels": (("user", "anna"),),
    "reasons": (("rules.office", "rule office"),),
}


@pytest.mark.parametrize("name", [f.name for f in fields(Target)])
def test_whatever_changes_is_another_target(name: str) -> None:
    assert replace(TARGET, **{name: OTHER[name]}).digest() != TARGET.digest()


def test_the_order_of_names_and_files_is_no_change() -> None:
    two = (("/srv/ws/a", "01" * 32), ("/srv/ws/b", "02" * 32))
    one = replace(TARGET, env_names=("A", "B"), files=two)
    assert one.digest() == replace(TARGET, env_names=("B", "A", "A"), files=two[::-1]).digest()


def test_no_two_ways_to_write_words_share_a_target() -> None:
    words = [("a b",), ("a", "b"), ('a","b',), ("a", "", "b"), ("a\0b",), ("caf\udce9",), ("caf\\udce9",), ("café",)]
    digests = {replace(TARGET, argv=w).digest() for w in words}
    assert len(digests) == len(words)
    assert digest_of("access", {"a": 1}) != digest_of("operation", {"a": 1})


targets = st.builds(
    Target,
    uid=st.integers(0, 2**32 - 1),
    unit=st.text(),
    tool=st.text(),
    argv=st.none() | st.lists(st.text(), max_size=3).map(tuple),
    script=st.none() | st.text(),
    cwd=st.text(),
    env_names=st.lists(st.text(), max_size=3).map(tuple),
    stdin=st.text(),
    workspace=st.text(),
    profile=st.text(),
    readonly=st.booleans(),
    network=st.sampled_from(["", "none", "loopback"]),
    files=st.lists(st.tuples(st.text(), st.text()), max_size=3).map(tuple),
    policy_digest=st.text(),
)


@given(targets)
def test_a_target_survives_json(target: Target) -> None:
    back = Target.from_json(json.loads(json.dumps(target.to_json())))
    assert back == target
    assert back.digest() == target.digest()


def question(**changes: Any) -> Question:
    made = Question(
        new_id("apr"), "run", "pending", AGENT, {"agent": "a"}, None, TARGET.digest(), "ab" * 32, 1.5, 601.5, 2,
        pack({"tool": "shell", "argv": ["rm", "-rf", "x"]}, [REASON]),
        (Answer(3, True, "times", 4, 5000, "fine", 2.5),), None,
    )  # fmt: skip
    return replace(made, **changes)


def test_a_question_and_a_grant_survive_json() -> None:
    asked = question()
    raw = json.loads(json.dumps(asked.to_json()))
    assert raw["what"]["argv"] == ["rm", "-rf", "x"]
    assert raw["reasons"] == [REASON]
    assert Question.from_json(raw) == asked
    held = Grant(
        new_id("gra"), asked.id, "run", "session", 1000, "", asked.target, "ses-aaaaaaaaaaaa", ("pattern x",), None,
        "ab" * 32, (3, 4), 3.0, 4.0, 5, 2, 3.5,
    )  # fmt: skip
    assert Grant.from_json(json.loads(json.dumps(held.to_json()))) == held
    assert (held.left, replace(held, uses=None).left) == (3, None)


def test_ids_are_100_random_bits_in_base32() -> None:
    made = {new_id("apr") for _ in range(1000)}
    assert len(made) == 1000
    assert all(i.startswith("apr-") and len(i) == 24 and i[4:].isalnum() and i.islower() for i in made)


@pytest.mark.parametrize("name", ["argv", "script"])
def test_a_long_command_keeps_its_head_its_size_and_its_digest(name: str) -> None:
    text = "echo hello; " * 10_000
    whole: Any = text if name == "script" else ["bash", "-c", text]
    shown = question(shown=pack({name: whole}, [])).what[name]
    plain = json.dumps(whole, separators=(",", ":")).encode()
    assert (shown["bytes"], shown["sha256"]) == (len(plain), hashlib.sha256(plain).hexdigest())
    head = shown["head"] if name == "script" else shown["head"][-1]
    assert text.startswith(head)
    assert MEMBER_BYTES - 64 <= len(json.dumps(shown["head"])) <= MEMBER_BYTES + 64


def test_a_command_within_the_bound_is_shown_whole() -> None:
    argv = ["printf", "%s", "é" * 5000, "\n"]
    assert question(shown=pack({"argv": argv}, [])).what["argv"] == argv


def test_what_takes_too_much_to_show_is_not_asked_about() -> None:
    with pytest.raises(TooLarge) as caught:
        pack({f"m{n}": "x" * MEMBER_BYTES for n in range(5)}, [])
    assert caught.value.allowed == f"{SHOWN_BYTES} bytes"


def test_what_is_not_unicode_is_shown_in_escapes() -> None:
    assert question(shown=pack({"argv": ["caf\udce9"]}, [])).what["argv"] == ["caf\\udce9"]
