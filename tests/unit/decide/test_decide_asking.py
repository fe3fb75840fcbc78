"""What a command looks like: what is blocked, what is asked about, what is only noted, and where nobody can answer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from supervisor import errors
from supervisor.decide.admission import Admission, Counters, admit_run, admit_session
from supervisor.decide.request import SessionRequest
from supervisor.decide.shell.analyse import analyse_argv, analyse_script
from supervisor.decide.shell.model import Analysis, Command, Risk
from supervisor.decide.trace import Trace
from supervisor.parser.shfmt import Shfmt
from supervisor.policy import snapshot as s
from supervisor.policy.narrow import AUTONOMY
from supervisor.policy.words import RISKS
from tests.unit.decide.samples import caller, peer, profile, request, session, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SOURCE = "/etc/stockade/policy.toml:40"
SOMEBODY = caller(uid=0, role="administrator")
BROKEN = Analysis(parsed=False, error="1:4: no end of the quotation")


@pytest.fixture(scope="module")
def script() -> Iterator[Callable[[str], Analysis]]:
    with Shfmt() as shfmt:
        yield lambda text: analyse_script(text, shfmt.parse)


def policy(*contexts: s.Context, alone: bool = False, **autonomy) -> s.Snapshot:
    """The sample with this [autonomy]; `alone`: nobody is there who could answer."""
    found = snapshot(caller(), *(() if alone else (SOMEBODY,)))
    return replace(found, autonomy=replace(s.Autonomy(source=SOURCE), **autonomy), contexts=contexts)


def narrow(**changes) -> s.Context:
    return replace(s.Context((("channel", ("irc",)),), "/etc/stockade/policy.toml:50"), **changes)


def run(found: s.Snapshot, analysis: Analysis, where=None, trace: Trace | None = None, **changes) -> Admission:
    asked = request(**changes) if where is None else request(workspace=None, session=where.id, **changes)
    return admit_run(found, {}, peer(), where, asked, Counters(), analysis, trace)


def argv(found: s.Snapshot, *words: str, **changes) -> Admission:
    return run(found, analyse_argv(words), argv=words, **changes)


# --- blocked ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", AUTONOMY)
@pytest.mark.parametrize("alone", [False, True])
def test_what_is_blocked_is_denied_at_every_level_although_it_is_asked_about_too(level: str, alone: bool) -> None:
    found = policy(alone=alone, level=level, blocked_commands=("ls", "nmap"), approval_patterns=("nmap",))
    with pytest.raises(errors.Denied) as refusal:
        argv(found, "nmap", "localhost")
    shown = refusal.value.as_dict()
    assert (shown["rule"], shown["source"]) == ("autonomy.blocked_commands[1]", SOURCE)
    assert (shown["pattern"], shown["command"]) == ("nmap", "nmap localhost")
    assert shown["hint"]
    assert shown["allowed"]


def test_what_is_most_likely_blocked_is_asked_about_and_denied_where_nothing_is(script) -> None:
    text = "$(which nmap) localhost"
    found = run(policy(level="supervised", blocked_commands=("ls", "nmap")), script(text), argv=None, script=text)
    (reason,) = found.reasons
    assert found.verdict == "ask"
    assert (reason.rule, reason.source) == ("autonomy.blocked_commands[1]", SOURCE)
    assert not reason.blanket, "nobody knows what it will be the next time"
    for text in ("$(which nmap) localhost; nmap localhost", "$(which nmap) localhost"):
        certain = text.count("nmap") > 1
        page = policy(level="supervised" if certain else "full", blocked_commands=("nmap",))
        with pytest.raises(errors.Denied):
            run(page, script(text), argv=None, script=text)


def test_a_blocked_command_is_marked_where_it_stands(script) -> None:
    text = "cd /tmp && nmap -sS host; true"
    with pytest.raises(errors.Denied) as refusal:
        run(policy(blocked_commands=("nmap",)), script(text), argv=None, script=text)
    marks = refusal.value.extra
    assert text[marks["start"] : marks["end"]] == "nmap -sS host"


def test_a_context_blocks_for_its_labels_alone_and_its_rule_is_named() -> None:
    found = policy(narrow(), narrow(blocked_commands=("git push", "curl")))
    with pytest.raises(errors.Denied) as refusal:
        argv(found, "curl", "x", labels={"channel": "irc"})
    assert refusal.value.rule == "contexts[1].blocked_commands[1]"
    assert refusal.value.source == "/etc/stockade/policy.toml:50"
    assert argv(found, "curl", "x").verdict == "allow"


def test_policys_own_list_is_looked_at_before_those_of_contexts() -> None:
    found = policy(narrow(blocked_commands=("curl",)), blocked_commands=("curl",))
    with pytest.raises(errors.Denied) as refusal:
        argv(found, "curl", "x", labels={"channel": "irc"})
    assert refusal.value.rule == "autonomy.blocked_commands[0]"


def test_what_can_be_seen_of_a_broken_script_is_blocked_all_the_same() -> None:
    seen = replace(BROKEN, commands=(Command(("nmap", "x"), "", 0, 6),))
    with pytest.raises(errors.Denied) as refusal:
        run(policy(blocked_commands=("nmap",), unparsed="readonly"), seen)
    assert refusal.value.rule == "autonomy.blocked_commands[0]"


# --- asked ------------------------------------------------------------------------------------------------------------


def test_each_pattern_that_names_a_command_is_a_reason_of_its_own_with_its_place(script) -> None:
    text = "git add . && git push -f; curl x"
    found = policy(approval_patterns=("curl", "rm", "git push"))
    admitted = run(found, script(text), argv=None, script=text)
    assert admitted.verdict == "ask"
    assert [(r.rule, text[r.start : r.end]) for r in admitted.reasons] == [
        ("autonomy.approval_patterns[0]", "curl x"),
        ("autonomy.approval_patterns[2]", "git push -f"),
    ]
    assert [r.subject for r in admitted.reasons] == ["pattern curl", "pattern git push"]
    assert {r.source for r in admitted.reasons} == {SOURCE}


def test_a_context_asks_for_its_labels_alone() -> None:
    found = policy(narrow(approval_patterns=("ls",)))
    admitted = argv(found, "ls", labels={"channel": "irc"})
    assert [r.rule for r in admitted.reasons] == ["contexts[0].approval_patterns[0]"]
    assert argv(found, "ls").reasons == ()


def test_marks_in_argv_are_offsets_in_its_words_joined_by_spaces() -> None:
    """What is started through another program is marked with that."""
    for words in (("git", "push", "-f"), ("env", "A=1", "git", "push", "x")):
        reason = argv(policy(approval_patterns=("git push",)), *words).reasons[0]
        assert " ".join(words)[reason.start : reason.end] == " ".join(words)


@pytest.mark.parametrize(
    ("pattern", "words", "blanket"),
    [
        ("git push", ("git", "push"), True),
        ("python", ("python3.11", "-c", "1"), False),
        ("bash", ("/bin/bash", "x"), False),
        ("python3", ("/tmp/a b/python3", "x"), False),
        ("*", ("ls",), False),
        ("pyth*", ("pythagoras",), False),
        ("rm -r", ("rm", "-r", "x*"), True),
    ],
)
def test_no_interpreter_and_no_pattern_for_any_program_is_granted_for_a_whole_session(
    pattern: str, words: tuple[str, ...], blanket: bool
) -> None:
    reason = argv(policy(approval_patterns=(pattern,)), *words).reasons[0]
    assert reason.blanket is blanket


@pytest.mark.parametrize("kind", sorted(set(RISKS) - {"outside"}))
def test_a_risk_is_a_reason_where_policy_names_its_kind_and_a_note_elsewhere(kind: str) -> None:
    seen = Analysis(risks=(Risk(kind, "what it does", 3, 7),))
    reason = run(policy(approval_risks=("outside", kind)), seen).reasons[0]
    assert (reason.rule, reason.source) == ("autonomy.approval_risks[1]", SOURCE)
    assert (reason.start, reason.end, reason.detail) == (3, 7, f"{kind}: what it does")
    assert reason.blanket is (kind not in ("dynamic", "evasion", "remote_code"))
    other = run(policy(approval_risks=("outside",)), seen)
    assert (other.verdict, other.notes) == ("allow", (f"{kind}: what it does",))


def test_a_path_outside_is_a_reason_marked_with_its_command(script) -> None:
    text = "ls; cat README /etc/passwd; true"
    admitted = run(policy(approval_risks=("outside",)), script(text), argv=None, script=text)
    assert [text[r.start : r.end] for r in admitted.reasons] == ["cat README /etc/passwd"]
    assert "Outside workspace" in admitted.reasons[0].detail
    assert run(policy(), script(text), argv=None, script=text).notes == (admitted.reasons[0].detail,)


def test_paths_are_looked_at_from_the_directory_in_which_it_starts() -> None:
    found = policy(approval_risks=("outside",))
    assert argv(found, "cat", "../x", cwd="sub").verdict == "allow"
    assert argv(found, "cat", "../x").verdict == "ask"


def test_the_same_sign_is_told_once() -> None:
    seen = Analysis(risks=tuple(Risk("mining", "x", n, n + 1) for n in range(5)))
    assert run(policy(), seen).notes == ("mining: x",)
    assert len(run(policy(approval_risks=("mining",)), seen).reasons) == 1


def test_no_number_of_harmless_signs_hides_one_that_is_asked_about() -> None:
    """Notes have a bound, and an agent can fill it."""
    noise = tuple(Risk("destructive", f"file {n}", n, n + 1) for n in range(200))
    seen = Analysis(risks=(*noise, Risk("remote_code", "curl | sh", 300, 310)))
    admitted = run(policy(approval_risks=("remote_code",)), seen)
    assert admitted.verdict == "ask"
    assert [r.detail for r in admitted.reasons] == ["remote_code: curl | sh"]
    assert len(admitted.notes) == 32


def test_what_is_too_much_to_be_shown_cannot_be_granted_for_a_session() -> None:
    many = Analysis(risks=tuple(Risk("destructive", f"file {n}", n, n + 1) for n in range(200)))
    reasons = run(policy(approval_risks=("destructive",)), many).reasons
    assert len(reasons) == 65
    assert (reasons[-1].detail, reasons[-1].blanket) == ("more than is shown", False)
    assert all(r.blanket for r in reasons[:-1])


def test_with_full_autonomy_nothing_is_asked_and_risks_are_noted() -> None:
    found = policy(level="full", approval_patterns=("rm",), approval_risks=("destructive",))
    seen = replace(analyse_argv(("rm", "-rf", "x")), risks=(Risk("destructive", "much", 0, 2),))
    admitted = run(found, seen, argv=("rm", "-rf", "x"))
    assert (admitted.verdict, admitted.reasons) == ("allow", ())
    assert "destructive: much" in admitted.notes


def test_what_may_only_read_is_asked_no_less_than_what_may_write() -> None:
    lists = {"approval_patterns": ("rm",), "approval_risks": ("outside",)}
    for words in (("rm", "x"), ("cat", "/etc/passwd"), ("ls",)):
        reads, writes = (argv(policy(level=level, **lists), *words) for level in ("readonly", "supervised"))
        assert (reads.verdict, reads.reasons) == (writes.verdict, writes.reasons)
        assert (reads.readonly, writes.readonly) == (True, False)


def test_the_profiles_own_autonomy_counts_where_it_is_narrower() -> None:
    lists = policy(level="full", approval_patterns=("rm",))
    careful = replace(lists, profiles=(profile(autonomy="supervised"),))
    assert argv(lists, "rm", "x").verdict == "allow"
    assert argv(careful, "rm", "x").verdict == "ask"


# --- nobody can answer ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["supervised", "readonly"])
@pytest.mark.parametrize(
    ("autonomy", "rule"),
    [
        ({"approval_patterns": ("true",)}, "autonomy.approval_patterns[0]"),
        ({"approval_risks": ("mining",)}, "autonomy.approval_risks[0]"),
    ],
)
def test_where_nobody_can_answer_what_is_asked_about_is_denied_by_the_rule_that_asks(
    level: str, autonomy, rule: str
) -> None:
    seen = replace(analyse_argv(("true",)), risks=(Risk("mining", "coins", 0, 4),))
    with pytest.raises(errors.Denied) as refusal:
        run(policy(alone=True, level=level, **autonomy), seen)
    assert (refusal.value.rule, refusal.value.source) == (rule, SOURCE)
    assert "nobody else" in refusal.value.detail
    assert "approvals:answer" in (refusal.value.hint or "")


def test_a_session_that_a_rule_asks_about_is_asked_or_denied() -> None:
    asks = s.Rule("mind", ("agent:execute",), (), "ask", "/etc/stockade/policy.toml:70")
    opened = SessionRequest("/srv/agents/a")
    admitted = admit_session(replace(policy(), rules=(asks,)), {}, peer(), opened, Counters())
    assert (admitted.verdict, [r.rule for r in admitted.reasons]) == ("ask", ["rules.mind"])
    with pytest.raises(errors.Denied) as refusal:
        admit_session(replace(policy(alone=True), rules=(asks,)), {}, peer(), opened, Counters())
    assert refusal.value.rule == "rules.mind"


# --- what cannot be parsed --------------------------------------------------------------------------------------------


def test_a_broken_script_is_asked_about_where_somebody_can_answer() -> None:
    for where in (None, session()):
        admitted = run(policy(unparsed="ask"), BROKEN, where)
        assert (admitted.verdict, admitted.readonly) == ("ask", False)
        reason = admitted.reasons[0]
        assert (reason.rule, reason.detail, reason.blanket) == ("autonomy.unparsed", BROKEN.error, False)
        assert (reason.start, reason.end) == (-1, -1), "it is about all of it"


@pytest.mark.parametrize(("alone", "unparsed"), [(True, "ask"), (True, "readonly"), (False, "readonly")])
def test_a_broken_script_that_is_not_asked_about_runs_in_the_narrowest_box(alone: bool, unparsed: str) -> None:
    lonely = replace(policy(alone=alone, unparsed=unparsed), profiles=(profile(network="loopback"),))
    admitted = run(lonely, BROKEN)
    assert (admitted.verdict, admitted.readonly, admitted.network) == ("allow", True, "none")
    assert any(BROKEN.error in note for note in admitted.notes)


def test_a_broken_script_has_no_wider_box_where_everything_may_only_read() -> None:
    reader = replace(policy(level="readonly"), profiles=(profile(network="loopback"),))
    admitted = run(reader, BROKEN)
    assert (admitted.verdict, admitted.readonly, admitted.network) == ("allow", True, "none")
    assert run(reader, Analysis()).network == "", "what can be parsed has the profile's"


@pytest.mark.parametrize(("alone", "unparsed"), [(True, "ask"), (False, "readonly")])
def test_a_broken_script_is_denied_in_a_session_that_can_write(alone: bool, unparsed: str) -> None:
    with pytest.raises(errors.Denied) as refusal:
        run(policy(alone=alone, unparsed=unparsed), BROKEN, session())
    assert (refusal.value.rule, refusal.value.source) == ("autonomy.unparsed", SOURCE)
    assert BROKEN.error in refusal.value.detail
    assert "workspace" in (refusal.value.allowed or "")


def test_a_broken_script_runs_in_a_session_that_can_only_read() -> None:
    for unparsed in ("ask", "readonly"):
        admitted = run(policy(alone=True, unparsed=unparsed), BROKEN, session(readonly=True))
        assert (admitted.verdict, admitted.readonly) == ("allow", True)


def test_a_broken_script_is_nothing_special_to_full_autonomy() -> None:
    for where in (None, session()):
        admitted = run(policy(level="full", unparsed="ask"), BROKEN, where)
        assert (admitted.verdict, admitted.readonly, admitted.reasons) == ("allow", False, ())


def test_an_error_without_words_is_said_in_words() -> None:
    admitted = run(policy(), Analysis(parsed=False))
    assert admitted.reasons[0].detail == "the script cannot be parsed"


# --- what a session that lives has too much of ------------------------------------------------------------------------


def test_what_may_only_read_does_not_run_where_it_could_write() -> None:
    found = policy(narrow(autonomy="readonly"))
    with pytest.raises(errors.Denied) as refusal:
        run(found, Analysis(), session(), labels={"channel": "irc"})
    assert (refusal.value.field, refusal.value.rule) == ("session", "autonomy")
    assert run(found, Analysis(), session(readonly=True), labels={"channel": "irc"}).readonly
    assert not run(found, Analysis(), session()).readonly


def test_what_may_have_less_network_does_not_run_where_there_is_more() -> None:
    lively = profile(network="loopback")
    found = replace(policy(narrow(network="none")), profiles=(lively,))
    with pytest.raises(errors.Denied) as refusal:
        run(found, Analysis(), session(granted=lively), labels={"channel": "irc"})
    assert (refusal.value.field, refusal.value.rule) == ("session", "contexts.network")
    assert run(found, Analysis(), session(granted=lively, network="none"), labels={"channel": "irc"}).network == "none"
    assert run(found, Analysis(), session(granted=lively)).network == ""


# --- the trace --------------------------------------------------------------------------------------------------------


def test_a_trace_has_a_step_for_each_reason_and_each_note() -> None:
    seen = replace(BROKEN, commands=(Command(("rm", "x"), "", 0, 4),), risks=(Risk("mining", "coins", 0, 4),))
    trace = Trace()
    run(policy(approval_patterns=("rm",)), seen, trace=trace)
    told = {(step.rule, step.effect) for step in trace}
    assert {
        ("autonomy.approval_patterns[0]", "ask"),
        ("autonomy.approval_risks", "note"),
        ("autonomy.unparsed", "note"),
    } <= told


def test_a_trace_has_the_step_that_denies() -> None:
    trace = Trace()
    with pytest.raises(errors.Denied):
        run(policy(blocked_commands=("true",)), analyse_argv(("true",)), trace=trace)
    assert (trace[-1].rule, trace[-1].effect) == ("autonomy.blocked_commands[0]", "deny")
    assert trace[-1].source == SOURCE
