"""The vocabulary: what is in it goes through unchanged, and nothing else does."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from typing import Any, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.wire import messages as w

SES, RUN, DIGEST = "ses-000000000001", "run-000000000001", "0" * 64
OPEN = w.OpenSession(1, SES, DIGEST, "shell", 0, 1000, [1000], "", "/srv/a", {})
START = w.StartRun(SES, RUN, ["true"], {}, "/", {})

numbers = st.integers(1, w.MAX_INT)
texts = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=40)
names = st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", fullmatch=True)
sessions = st.from_regex(r"(?:ses|run)-[0-9a-z]{8,32}", fullmatch=True)
digests = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
limits = st.dictionaries(st.sampled_from(w.LIMITS), numbers)
uids = st.integers(0, 2**32 - 2)
plain = st.dictionaries(texts, st.recursive(st.none() | st.booleans() | st.integers() | texts, st.lists, max_leaves=4))
env = st.dictionaries(texts.filter(lambda t: t != "" and "=" not in t), texts, max_size=5)
argv = st.lists(texts, min_size=1, max_size=5).filter(lambda v: v[0] != "")
parts = texts.filter(lambda t: t not in ("", ".", "..") and "/" not in t)
beneath = st.lists(parts, min_size=1, max_size=4).map("/".join)
held = st.dictionaries(beneath, digests, max_size=w.MAX_HELD)
files = st.fixed_dictionaries({"path": beneath, "sha256": digests, "size": st.integers(0, w.MAX_INT), "head": texts})
STRATEGIES: dict[type[w.Message], st.SearchStrategy[Any]] = {
    w.Reload: st.builds(w.Reload, numbers),
    w.OpenSession: st.builds(
        w.OpenSession, numbers, sessions, digests, names, st.integers(0, 4095), uids, st.lists(uids), texts,
        texts.map(lambda t: "/" + t), limits, st.booleans(), st.sampled_from(["", "none", "loopback"]),
    ),
    w.Inspect: st.builds(w.Inspect, numbers, sessions, st.lists(beneath, min_size=1, max_size=w.MAX_HELD)),
    w.StartRun: st.builds(w.StartRun, sessions, sessions, argv, env, texts.map(lambda t: "/" + t), limits, held),
    w.EndRun: st.builds(w.EndRun, sessions, st.sampled_from(w.ASKED_CAUSES)),
    w.SignalRun: st.builds(w.SignalRun, sessions, st.integers(1, 64), st.booleans()),
    w.CloseSession: st.builds(w.CloseSession, sessions),
    w.Stop: st.builds(w.Stop, numbers),
    w.Resume: st.builds(w.Resume, numbers),
    w.PolicyLoaded: st.builds(w.PolicyLoaded, numbers, digests),
    w.SessionOpened: st.builds(w.SessionOpened, numbers, sessions, plain),
    w.SessionEnded: st.builds(w.SessionEnded, sessions, st.sampled_from(["closed", "lost", "stopped"])),
    w.Inspected: st.builds(w.Inspected, numbers, st.lists(files, min_size=1, max_size=w.MAX_HELD)),
    w.RunEnded: st.builds(
        w.RunEnded, sessions, st.sampled_from(w.CAUSES), st.none() | st.integers(0, 255),
        st.none() | st.integers(1, 64), plain, plain, texts,
    ),
    w.Refused: st.builds(w.Refused, numbers, names, texts, plain),
    w.Stopped: st.builds(w.Stopped, numbers, st.booleans(), numbers, numbers),
    w.Record: st.builds(w.Record, st.integers(0, w.MAX_INT), plain),
    w.Ack: st.builds(w.Ack, numbers, numbers),
    w.Nack: st.builds(w.Nack, numbers, texts),
    w.Closed: st.builds(w.Closed, sessions, st.integers(0, w.MAX_INT), texts),
    w.Go: st.builds(w.Go, sessions, digests),
    w.Nogo: st.builds(w.Nogo, sessions, texts),
    w.Parse: st.builds(w.Parse, numbers, st.none() | argv, st.none() | texts, st.none() | texts),
    w.Parsed: st.builds(w.Parsed, numbers, plain),
}  # fmt: skip
GROUPS = (
    w.TO_LAUNCHER, w.FROM_LAUNCHER, w.TO_AUDITOR, w.AUDITOR_TO_MAIN, w.AUDITOR_TO_LAUNCHER, w.TO_PARSER, w.FROM_PARSER,
)  # fmt: skip


def packet(message: w.Message, **changes: Any) -> bytes:
    body = {k: v for k, v in {**asdict(message), **changes}.items() if v is not ...}  # type: ignore[call-overload]
    return json.dumps([message.KIND, body], separators=(",", ":")).encode()


def refused(data: bytes, fds: int = 0, vocabulary: w.Vocabulary = w.TO_LAUNCHER) -> str:
    with pytest.raises(w.WireError) as e:
        w.decode(data, vocabulary, fds)
    return str(e.value)


def test_every_message_of_every_direction_is_tried_here() -> None:
    assert {kind for group in GROUPS for kind in group} == STRATEGIES.keys()


def test_every_field_of_every_message_has_a_check_and_every_kind_a_name_of_its_own() -> None:
    for kind in STRATEGIES:
        assert all(callable(f.metadata["check"]) for f in fields(kind))
        assert get_type_hints(kind).keys() >= {f.name for f in fields(kind)}
    assert len({kind.KIND for kind in STRATEGIES}) == len(STRATEGIES)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_what_goes_out_comes_in_unchanged(data: st.DataObject) -> None:
    for group in GROUPS:
        for kind in group:
            message = data.draw(STRATEGIES[kind])
            assert w.decode(w.encode(message), group, kind.FDS[0]) == message


@pytest.mark.parametrize("kind", STRATEGIES, ids=lambda k: k.KIND)
def test_a_message_is_known_only_in_its_own_direction(kind: type[w.Message]) -> None:
    for group in GROUPS:
        if kind not in group:
            assert "no such message" in refused(json.dumps([kind.KIND, {}]).encode(), 0, group)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
).map(lambda v: json.dumps(v).encode()))  # fmt: skip
def test_nothing_but_a_wire_error_comes_of_bytes_at_random(data: bytes) -> None:
    for group in GROUPS:
        refused(data, 0, group)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b'["stop"]',
        b'["stop", {}, 1]',
        b'["stop", []]',
        b'{"stop": {"id": 1}}',
        b'[{"a": 1}, {}]',
        b'["stop", {"id": 1}] ["resume", {"id": 1}]',
        b'["stop", {"id": NaN}]',
        b'["stop", {"id": 1e400}]',
        b'["stop", {"id": ' + b"9" * 5000 + b"}]",
        b'["stop", {"id": 1.0}]',
        b'["stop", {"id": true}]',
        b'["stop", {"id": "1"}]',
        b"[" * 100_000,
        b'["stop", ' + b'{"id":' * 50_000,
        b'["\xff", {}]',
        "[\"stop\", {\"id\": 1}]".encode("utf-16"),
        b"\x1f\x8b\x08\x00",
    ],
)  # fmt: skip
def test_hostile_json_is_a_wire_error(data: bytes) -> None:
    refused(data)


INSPECT = w.Inspect(1, SES, ["x.sh"])
FILE: dict[str, Any] = {"path": "x.sh", "sha256": DIGEST, "size": 3, "head": "id\n"}
INSPECTED = w.Inspected(1, [FILE])
NO_PATHS: list[Any] = [
    [], ["a"] * 9, [""], ["/"], ["/etc/passwd"], [".."], ["../a"], ["a/../b"], ["a/.."], ["."], ["./a"], ["a/./b"],
    ["a/"], ["a//b"], ["a\0b"], ["x" * 4096], [1], [None], "a", {"a": 1}, None,
]  # fmt: skip
BOUNDS: list[tuple[w.Message, str, list[Any], list[Any]]] = [
    (w.Reload(1), "id", [1, w.MAX_INT], [0, -1, w.MAX_INT + 1, True, 1.0, "1", None]),
    (OPEN, "session", [SES, "run-" + "z" * 32], ["ses-1234567", "ses-" + "0" * 33, "SES-00000000", SES + "\n", 7, ""]),
    (OPEN, "digest", ["a" * 64], ["a" * 63, "a" * 65, "A" * 64, "g" * 64, None]),
    (OPEN, "profile", ["a", "A" + "b" * 63], ["", "1a", "a" * 65, "a/b", "a b", "ä"]),
    (OPEN, "caller", [0, 4095], [-1, 4096]),
    (OPEN, "uid", [0, 2**32 - 2], [-1, 2**32 - 1, 2**32]),
    (OPEN, "gids", [[], [0] * 20_000], [[0] * 65_537, [-1], [2**32 - 1], ["0"], None, {}, [[0]]]),
    (OPEN, "unit", ["", "x" * 255], ["x" * 256, "a\0", None]),
    (OPEN, "workspace", ["/", "/" + "x" * 4094], ["", "x", "/" + "x" * 4095, "/a\0b", None]),
    (OPEN, "limits", [{}, dict.fromkeys(w.LIMITS, 1)], [{"memory": 0}, {"uid": 1}, {"memory": "1"}, [], None]),
    (OPEN, "readonly", [True, False], [0, 1, "true", None]),
    (OPEN, "network", ["", "none", "loopback"], ["host", "None", None, 0, ["none"]]),
    (INSPECT, "paths", [["a"], ["a/b.sh"] * 8, ["..."], ["a b"], ["x" * 4095]], NO_PATHS),
    (
        START,
        "held",
        [{}, {"a/b": DIGEST}, {f"{n}": DIGEST for n in range(8)}],
        [
            None,
            [],
            {"a": DIGEST[1:]},
            {"a": "A" * 64},
            {"a": None},
            {f"{n}": DIGEST for n in range(9)},
            *(
                {p: DIGEST}
                for paths in NO_PATHS
                if type(paths) is list and len(paths) == 1
                for p in paths
                if type(p) is str
            ),
        ],
    ),
    (
        INSPECTED,
        "files",
        [[FILE], [FILE] * 8],
        [
            [],
            [FILE] * 9,
            None,
            [{}],
            [{**FILE, "more": 1}],
            [{**FILE, "size": -1}],
            [{**FILE, "path": "/etc/passwd"}],
            [{**FILE, "head": "a" * 4097}],
            [{**FILE, "head": None}],
            [{**FILE, "sha256": ""}],
        ],
    ),
    (START, "argv", [["a"], ["a", ""], ["a"] * 4096], [[], [""], ["a"] * 4097, ["a\0"], "a", [1], ["a" * 98_304]]),
    (START, "env", [{}, {"a": "="}, {"a" * 256: ""}], [{"": "a"}, {"a=": ""}, {"a": 1}, {"a\0": ""}, {"a" * 257: ""}]),
    (w.EndRun(RUN, "denied"), "cause", list(w.ASKED_CAUSES), [*w.FOUND_CAUSES, "", None, ["denied"]]),
    (w.SignalRun(RUN, 9, False), "signal", [1, 64], [0, -1, 65, True]),
    (w.SignalRun(RUN, 9, False), "tree", [True, False], [0, 1, None, "true"]),
]


@pytest.mark.parametrize(("message", "field", "good", "bad"), BOUNDS)
def test_every_bound_holds_on_both_sides(message: w.Message, field: str, good: list[Any], bad: list[Any]) -> None:
    fds, group = message.FDS[0], next(g for g in GROUPS if type(message) in g)
    for value in good:
        decoded = w.decode(packet(message, **{field: value}), group, fds)
        assert getattr(decoded, field) == value
    for value in bad:
        assert field in refused(packet(message, **{field: value}), fds, group), value


@pytest.mark.parametrize("message", [OPEN, START, w.Stop(1)], ids=lambda m: m.KIND)
def test_a_missing_and_an_extra_field_are_refused(message: w.Message) -> None:
    for f in fields(message):
        assert "wrong fields" in refused(packet(message, **{f.name: ...}), message.FDS[0])
    for extra in ("x", "KIND", "FDS", "__class__", ""):
        assert "wrong fields" in refused(packet(message, **{extra: 1}), message.FDS[0])


@pytest.mark.parametrize("count", range(5))
def test_each_message_has_its_number_of_descriptors(count: int) -> None:
    for message in (OPEN, START, w.Stop(1)):
        if message.FDS[0] <= count <= message.FDS[1]:
            assert w.decode(packet(message), w.TO_LAUNCHER, count) == message
        else:
            assert "descriptors" in refused(packet(message), count)


def test_a_message_over_the_bound_is_neither_sent_nor_taken() -> None:
    assert w.encode(w.Refused(1, "x", "d", {"a": "x" * (w.MAX_MESSAGE - 100)}))
    with pytest.raises(w.WireError):
        w.encode(w.Refused(1, "x", "d", {"a": "x" * w.MAX_MESSAGE}))
    assert "oversized" in refused(packet(w.Stop(1)) + b" " * w.MAX_MESSAGE)


@pytest.mark.parametrize(
    "changes",
    [
        {"session": "ses-000000000002"},
        {"run": "run-000000000002"},
        {"argv": ["true", ""]},
        {"argv": ["tru", "e"]},
        {"env": {"A": ""}},
        {"cwd": "/a"},
        {"limits": {"memory": 1}},
        {"held": {"x.sh": DIGEST}},
    ],
)
def test_a_fingerprint_names_everything_that_is_executed(changes: dict[str, Any]) -> None:
    assert w.fingerprint(replace(START, **changes)) != w.fingerprint(START)


def test_a_fingerprint_names_what_each_held_file_holds() -> None:
    one, other = (w.fingerprint(replace(START, held={"x.sh": digit * 64})) for digit in "01")
    assert one != other


def test_a_fingerprint_does_not_depend_on_the_order_of_a_dict() -> None:
    files = {"a": DIGEST, "b": DIGEST}
    one = replace(START, env={"A": "1", "B": "2"}, limits={"memory": 1, "cpu": 2}, held=files)
    other = replace(START, env={"B": "2", "A": "1"}, limits={"cpu": 2, "memory": 1}, held=dict(reversed(files.items())))
    assert w.fingerprint(one) == w.fingerprint(other)


def test_what_logs_show_of_a_message_has_no_value_that_may_be_secret() -> None:
    shown = w.describe(replace(START, argv=["curl", "token"], env={"KEY": "secret"}))
    assert RUN in shown
    assert "token" not in shown
    assert "secret" not in shown
