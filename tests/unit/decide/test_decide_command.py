"""What can be executed exactly as it was asked, and the environment it gets."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.decide.command import arguments, check_command, directory, environment
from supervisor.errors import InvalidRequest, StockadeError, TooLarge
from supervisor.wire.messages import MAX_ARGS, MAX_TEXT, TO_LAUNCHER, StartRun, WireError, decode, encode
from tests.unit.decide.samples import profile, request

SESSION, RUN = "ses-aaaaaaaaaaaaaaaaaaaa", "run-aaaaaaaaaaaaaaaaaaaa"


@pytest.mark.parametrize(
    ("changes", "error", "field"),
    [
        ({"argv": ()}, InvalidRequest, "argv[0]"),
        ({"argv": ("",)}, InvalidRequest, "argv[0]"),
        ({"argv": ("echo", "a\0b")}, InvalidRequest, "argv[1]"),
        ({"argv": ("echo", "\ud800")}, InvalidRequest, "argv[1]"),
        ({"argv": ("x",) * (MAX_ARGS + 1)}, TooLarge, "argv"),
        ({"argv": ("echo", "x" * MAX_TEXT)}, TooLarge, "argv[1]"),
        ({"argv": ("echo", "x" * 60_000, "é" * 30_000)}, TooLarge, "argv"),
        ({"argv": None}, InvalidRequest, "argv"),
        ({"script": "true"}, InvalidRequest, "argv"),
        ({"argv": None, "script": "a\0"}, InvalidRequest, "script"),
        ({"argv": None, "script": "\udcff"}, InvalidRequest, "script"),
        ({"argv": None, "script": "x" * MAX_TEXT}, TooLarge, "script"),
        ({"env": {"": "x"}}, InvalidRequest, "env"),
        ({"env": {"A=B": "x"}}, InvalidRequest, "env"),
        ({"env": {"A\0": "x"}}, InvalidRequest, "env"),
        ({"env": {"A": "\0"}}, InvalidRequest, "env.A"),
        ({"env": {"A": "\ud800"}}, InvalidRequest, "env.A"),
        ({"env": {"A" * 300: "x"}}, TooLarge, "env"),
        ({"env": {f"V{i}": "" for i in range(MAX_ARGS)}}, TooLarge, "env"),
        ({"env": {"A": "x" * 50_000}, "argv": ("x" * 50_000,)}, TooLarge, "argv"),
        ({"cwd": ""}, InvalidRequest, "cwd"),
        ({"cwd": "a\0"}, InvalidRequest, "cwd"),
        ({"cwd": "/" + "x" * 5000}, TooLarge, "cwd"),
        ({"stdin": b"", "stdin_stream": True}, InvalidRequest, "stdin"),
        ({"labels": {f"l{i}": "" for i in range(33)}}, InvalidRequest, "labels"),
        ({"labels": {"Bad Name": ""}}, InvalidRequest, "labels"),
        ({"labels": {"agent": "a\nb"}}, InvalidRequest, "labels.agent"),
        ({"labels": {"agent": "x" * 300}}, InvalidRequest, "labels.agent"),
    ],
)
def test_what_cannot_be_executed_as_asked_is_refused_by_the_name_of_its_field(changes, error, field) -> None:
    with pytest.raises(error) as refusal:
        check_command(request(**changes))
    assert type(refusal.value) is error
    assert refusal.value.field == field
    assert refusal.value.allowed is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"argv": ("printf", "two\nlines", "", "\t", "…")},
        {"argv": None, "script": "cat <<'E'\nx\nE\n"},
        {"argv": None, "script": ""},
        {"env": {"A": "x=y\n", "ünï": "ö"}},
        {"cwd": "sub/dir"},
        {"stdin": b"\0\xff"},
        {"labels": {"agent": "ü", "channel": "discord"}},
    ],
)
def test_newlines_and_other_legal_oddities_are_not_refused(changes) -> None:
    check_command(request(**changes))


def test_a_script_runs_under_the_profiles_shell() -> None:
    asked = request(argv=None, script="echo $0")
    bash = profile(**{"shell": "/bin/bash"})  # noqa: PIE804 - ruff takes any shell= for a subprocess
    assert arguments(bash, asked) == ("/bin/bash", "-c", "echo $0")
    assert arguments(profile(), request(argv=("a", "b"))) == ("a", "b")


def test_the_environment_is_base_then_profile_then_request() -> None:
    base = environment(profile(env=()), SESSION, RUN, {})
    assert base == {
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
        "HOME": "/home/agent",
        "USER": "agent",
        "LOGNAME": "agent",
        "SHELL": "/bin/sh",
        "LANG": "C.UTF-8",
        "TMPDIR": "/tmp",
        "STOCKADE_SESSION": SESSION,
        "STOCKADE_RUN": RUN,
    }
    own = profile(env=(("LANG", "de"), ("A", "profile")))
    assert environment(own, SESSION, RUN, {"A": "asked"}) == {**base, "LANG": "de", "A": "asked"}


def test_the_directory_is_the_workspace_unless_asked_otherwise() -> None:
    assert directory("/srv/a", None) == "/srv/a"
    assert directory("/srv/a", "b/c") == "/srv/a/b/c"
    assert directory("/srv/a", "/tmp") == "/tmp"
    with pytest.raises(TooLarge):
        directory("/srv/" + "a" * 200, "x" * 4000)


TEXT = st.text(alphabet=st.characters(codec=None), max_size=40)


@given(
    argv=st.one_of(st.none(), st.lists(TEXT, max_size=5).map(tuple)),
    script=st.one_of(st.none(), TEXT),
    env=st.dictionaries(TEXT, TEXT, max_size=4),
    cwd=st.one_of(st.none(), TEXT),
    scale=st.sampled_from([1, 1000, 3000]),
)
def test_whatever_passes_is_a_message_that_the_launcher_accepts(argv, script, env, cwd, scale) -> None:
    """A StartRun outside the vocabulary would be a surprise, and a surprise ends the service."""
    asked = replace(request(), argv=argv, script=script and script * scale, env=env, cwd=cwd)
    try:
        check_command(asked)
        message = StartRun(
            SESSION,
            RUN,
            list(arguments(profile(), asked)),
            environment(profile(), SESSION, RUN, asked.env),
            directory("/srv/agents/a", asked.cwd),
            {},
        )
    except StockadeError:
        return
    try:
        packet = encode(message)
    except WireError:
        return  # too large as JSON: the client of the launcher says so, and nothing is sent
    assert decode(packet, TO_LAUNCHER, 2) == message
