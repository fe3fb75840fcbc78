"""supervisor/kernel/filters.py and seccomp.py: the compiled programs say what the tables say, on both architectures."""

from __future__ import annotations

import errno
import itertools
import struct
from functools import cache

import pyseccomp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.kernel import filters, rules, seccomp, syscalls
from supervisor.kernel.filters import FILTERS
from supervisor.kernel.rules import Arg, Filter
from tests.unit.kernel.bpf import X32_BIT, describe, simulate, simulate_all

TOKENS = {"x86_64": pyseccomp.Arch.X86_64, "aarch64": pyseccomp.Arch.AARCH64}
ARCHES = list(syscalls.ARCHITECTURES)
HIGH = 1 << 32  # a bit that the kernel does not read in an int argument


@cache
def programs(name: str, arch: str) -> tuple[bytes, ...]:
    return seccomp.compile_filter(name, arch, memfd=True)


@cache
def known(arch: str) -> dict[str, int]:
    """Every call of an architecture that libseccomp or our table knows."""
    found = dict(syscalls.numbers(arch))
    for nr in range(600):
        try:
            found[pyseccomp.resolve_syscall(TOKENS[arch], nr).decode()] = nr
        except ValueError:
            continue
    return found


@cache
def compiled(arch: str) -> dict[str, int]:
    """The calls of an architecture that can be compiled here: of a foreign one only those libseccomp can translate."""
    if arch == syscalls.MACHINE:
        return known(arch)
    return {n: nr for n, nr in known(arch).items() if pyseccomp.resolve_syscall(TOKENS[syscalls.MACHINE], n) >= 0}


def answer(name: str, arch: str, call: str, *args: int) -> str | int:
    return describe(simulate_all(programs(name, arch), arch, known(arch)[call], args))


def tool(arch: str, call: str, *args: int) -> str | int:
    return answer("tool", arch, call, *args)


def has(arch: str, call: str) -> bool:
    return call in compiled(arch)


# --- the tables ------------------------------------------------------------------------------------------------


def test_the_tool_filter_has_an_answer_for_every_call_that_exists() -> None:
    """Nothing is absent by oversight: each known call is in exactly one of allow, deny, absent, only_if."""
    table = FILTERS["tool"]
    kinds = [table.names("allow"), table.names("deny"), table.names("absent"),
             frozenset(n for r in table.only_if for n in r.names)]  # fmt: skip
    everything = known("x86_64").keys() | known("aarch64").keys()
    assert len(everything) > 370
    assert everything - frozenset().union(*kinds) == set()
    assert [a & b for a, b in itertools.combinations(kinds, 2) if a & b] == []


@pytest.mark.parametrize("name", FILTERS)
def test_no_call_stands_in_two_kinds_of_a_filter(name: str) -> None:
    table = FILTERS[name]
    allow, deny, absent = table.names("allow"), table.names("deny"), table.names("absent")
    assert allow & deny == allow & absent == deny & absent == frozenset()
    conditional = frozenset(n for r in table.only_if for n in r.names)
    # An unconditional allow would make the condition disappear without a word (libseccomp).
    assert conditional & (allow | deny) == frozenset()


@pytest.mark.parametrize("name", FILTERS)
def test_every_name_in_a_filter_is_a_system_call_of_some_architecture(name: str) -> None:
    table = FILTERS[name]
    used = table.names("allow") | table.names("deny") | table.names("absent")
    used |= {n for r in (*table.only_if, *table.refuse) for n in r.names}
    assert used - (known("x86_64").keys() | known("aarch64").keys()) == set()


@pytest.mark.parametrize("name", FILTERS)
def test_every_group_and_rule_says_why(name: str) -> None:
    table = FILTERS[name]
    parts: list[rules.Group | rules.Rule] = [
        *table.allow,
        *table.deny,
        *table.absent,
        *table.only_if,
        *table.refuse,
    ]
    assert [part for part in parts if len(part.why) < 5 or not part.names] == []


def test_what_the_tool_may_not_do_our_own_processes_may_not_either() -> None:
    denied = FILTERS["tool"].names("deny")
    for name in ("main", "auditor", "parser"):
        assert denied <= FILTERS[name].names("deny")


def test_the_auditor_may_do_less_than_main_and_main_less_than_a_tool() -> None:
    tool_allow, main, auditor = (FILTERS[n].names("allow") for n in ("tool", "main", "auditor"))
    assert auditor < main < tool_allow


def test_a_misspelt_name_does_not_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """libseccomp answers -1 for an unknown name without an error: a denial must not vanish that way."""
    bad = Filter(allow=(), deny=(rules.group("a name with a typo in it", "moutn"),), absent=())
    monkeypatch.setitem(FILTERS, "bad", bad)
    with pytest.raises(OSError, match="'moutn' is not a system call") as caught:
        seccomp.compile_filter("bad")
    assert caught.value.errno == errno.EINVAL


def test_an_unknown_filter_is_refused() -> None:
    with pytest.raises(KeyError):
        seccomp.compile_filter("nonesuch")


def test_outside_is_the_exact_complement() -> None:
    conditions = rules.outside(0, {1, 2, 10})
    for value in (*range(64), HIGH + 1, 2**64 - 1, 2**31):
        assert any(holds(c, (value,)) for (c,) in conditions) == (value not in {1, 2, 10}), value


# --- compiled = table, for every call and any arguments ----------------------------------------------------------


def holds(arg: Arg, args: tuple[int, ...]) -> bool:
    value = args[arg.index] & (2**64 - 1)
    return value > arg.value if arg.op == "above" else value & arg.mask == arg.value


def expected(table: Filter, call: str, args: tuple[int, ...]) -> set[str | int]:
    """The answers that the table permits: the first program's, overruled by any refusal that matches."""
    refusals: set[str | int] = {
        r.errno for r in table.refuse if call in r.names and all(holds(a, args) for a in r.when)
    }
    if refusals:
        return refusals
    if call in table.names("allow"):
        return {"allow"}
    if any(call in r.names and all(holds(a, args) for a in r.when) for r in table.only_if):
        return {"allow"}
    return {errno.EPERM if call in table.names("deny") else errno.ENOSYS}


def interesting(table: Filter, call: str) -> list[set[int]]:
    """Per argument: the values on, beside and above each condition's edge."""
    values: list[set[int]] = [{0, 1, 2**31, 2**32 - 1, 2**64 - 1, HIGH} for _ in range(6)]
    for rule in (*table.only_if, *table.refuse):
        if call in rule.names:
            for arg in rule.when:
                near = {arg.value, arg.value + 1, max(arg.value - 1, 0), arg.value | HIGH, arg.value | 0o755}
                values[arg.index] |= near
    return values


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("name", FILTERS)
def test_every_known_call_gets_the_answer_of_the_table(name: str, arch: str) -> None:
    """With no arguments and with all ones; a denied or absent call gets its answer whatever the arguments are."""
    table = FILTERS[name]
    for args in ((0,) * 6, (2**64 - 1,) * 6):
        wrong = {
            call: got
            for call in compiled(arch)
            if (got := answer(name, arch, call, *args)) not in expected(table, call, args)
        }
        assert wrong == {}


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("name", FILTERS)
def test_every_conditional_call_gets_the_answer_of_the_table_at_every_edge(name: str, arch: str) -> None:
    table = FILTERS[name]
    conditional = {n for r in (*table.only_if, *table.refuse) for n in r.names if has(arch, n)}
    assert conditional
    tried = 0
    for call in conditional:
        per_argument = interesting(table, call)
        used = {a.index for r in (*table.only_if, *table.refuse) if call in r.names for a in r.when}
        axes = [sorted(per_argument[i]) if i in used else [0] for i in range(6)]
        for args in itertools.islice(itertools.product(*axes), 0, None, 1 + len(axes[0]) // 40):
            got = answer(name, arch, call, *args)
            assert got in expected(table, call, args), (call, args)
            tried += 1
    assert tried > 100


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_call_with_any_arguments_gets_the_answer_of_the_table(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(list(FILTERS)))
    arch = data.draw(st.sampled_from(ARCHES))
    call = data.draw(st.sampled_from(sorted(compiled(arch))))
    values = interesting(FILTERS[name], call)
    args = tuple(data.draw(st.sampled_from(sorted(v)) | st.integers(0, 2**64 - 1)) for v in values)
    assert answer(name, arch, call, *args) in expected(FILTERS[name], call, args)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("name", FILTERS)
def test_a_call_that_nobody_knows_yet_does_not_exist(name: str, arch: str) -> None:
    for nr in (max(known(arch).values()) + 1, 512, 600, 1000, 0x3FFFFFFF):
        assert describe(simulate_all(programs(name, arch), arch, nr)) == errno.ENOSYS


def test_minus_one_as_a_number_does_not_run_anything() -> None:
    """A tracer that skips a call leaves -1; it must not be taken for an allowed one."""
    for name, arch in itertools.product(FILTERS, ARCHES):
        assert describe(simulate_all(programs(name, arch), arch, 0xFFFFFFFF)) in {errno.ENOSYS, "kill"}


@pytest.mark.parametrize("name", FILTERS)
def test_foreign_architectures_are_killed_whatever_they_call(name: str) -> None:
    for own, foreign in (("x86_64", "i386"), ("aarch64", "arm"), ("x86_64", "aarch64"), ("aarch64", "x86_64")):
        for nr in (0, 1, 20, 63, 120, 400, 11, 435):
            assert describe(simulate_all(programs(name, own), foreign, nr)) == "kill"


@pytest.mark.parametrize("name", FILTERS)
def test_x32_is_killed_whatever_it_calls(name: str) -> None:
    for nr in (*range(600), 0x3FFFFFFE):
        assert describe(simulate_all(programs(name, "x86_64"), "x86_64", nr | X32_BIT)) == "kill"


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("name", FILTERS)
def test_each_program_fits_into_the_kernel(name: str, arch: str) -> None:
    """BPF_MAXINSNS is 4096; load() counts instructions in an unsigned short."""
    for program in programs(name, arch):
        assert len(program) % seccomp.INSTRUCTION_BYTES == 0
        assert 0 < len(program) // seccomp.INSTRUCTION_BYTES < 4096
    assert seccomp.receipt(name, programs(name, arch))["instructions"] < 1000


# --- what it means, in the words of the promises -----------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize(
    "call",
    [
        "mount", "umount2", "pivot_root", "chroot", "fsopen", "fsconfig", "fsmount", "fspick", "open_tree",
        "move_mount", "mount_setattr", "unshare", "setns", "ptrace", "process_vm_readv", "process_vm_writev",
        "process_madvise", "pidfd_getfd", "kcmp", "bpf", "perf_event_open", "keyctl", "add_key", "request_key",
        "io_uring_setup", "io_uring_enter", "io_uring_register", "userfaultfd", "memfd_secret", "init_module",
        "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff", "quotactl",
        "quotactl_fd", "acct", "syslog", "settimeofday", "clock_settime", "adjtimex", "clock_adjtime",
        "name_to_handle_at", "open_by_handle_at", "fanotify_init", "lookup_dcookie", "nfsservctl", "vhangup",
    ],
)  # fmt: skip
def test_a_tool_is_denied(call: str, arch: str) -> None:
    assert tool(arch, call) == errno.EPERM


@pytest.mark.parametrize("call", ["iopl", "ioperm", "modify_ldt", "create_module"])
def test_a_tool_is_denied_what_only_x86_has(call: str) -> None:
    assert tool("x86_64", call) == errno.EPERM


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("call", ["clone3", "openat2"])
def test_calls_with_hidden_arguments_do_not_exist_for_any_process(call: str, arch: str) -> None:
    for name in FILTERS:
        assert answer(name, arch, call) == errno.ENOSYS


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("setid", [0o4000, 0o2000, 0o6000])
@pytest.mark.parametrize("mode", [0, 0o755, 0o1777])
def test_no_call_makes_a_set_id_file(arch: str, setid: int, mode: int) -> None:
    bad, good = mode | setid, mode
    for extra in (0, HIGH, 0o100000):
        for create in (0o100, 0o20000000, 0o20200000, 0o100 | 0o2, 0o2000101):
            at = (("open", 0), ("openat", 1)) if arch == "x86_64" else (("openat", 1),)
            for call, shift in at:
                assert tool(arch, call, *((0,) * shift), 0, create, bad | extra) == errno.EPERM
                assert tool(arch, call, *((0,) * shift), 0, create, good | extra) == "allow"
                # without creating, the register holds whatever was there before
                assert tool(arch, call, *((0,) * shift), 0, 0o2, bad | extra) == "allow"
        for call, index in (("creat", 1), ("chmod", 1), ("fchmod", 1), ("mkdir", 1), ("mknod", 1),
                            ("fchmodat", 2), ("fchmodat2", 2), ("mkdirat", 2), ("mknodat", 2)):  # fmt: skip
            if has(arch, call):
                assert tool(arch, call, *((0,) * index), bad | extra) == errno.EPERM
                assert tool(arch, call, *((0,) * index), good | extra) == "allow"


@pytest.mark.parametrize("arch", ARCHES)
def test_no_device_nodes(arch: str) -> None:
    for kind, verdict in ((0o020000, errno.EPERM), (0o060000, errno.EPERM), (0o010000, "allow"), (0o140000, "allow"),
                          (0o100000, "allow"), (0, "allow")):  # fmt: skip
        assert tool(arch, "mknodat", 0, 0, kind | 0o644) == verdict
        assert tool(arch, "mknodat", 0, 0, kind | 0o644 | HIGH) == verdict
        if arch == "x86_64":
            assert tool(arch, "mknod", 0, kind | 0o644) == verdict
    for flags, verdict in ((0, "allow"), (1, "allow"), (2, "allow"), (4, errno.EPERM), (5, errno.EPERM)):
        assert tool(arch, "renameat2", 0, 0, 0, 0, flags) == verdict
        assert tool(arch, "renameat2", 0, 0, 0, 0, flags | HIGH) == verdict


@pytest.mark.parametrize("arch", ARCHES)
def test_clone_makes_processes_and_threads_but_no_namespaces(arch: str) -> None:
    sigchld, thread, vfork = 17, 0x3D0F00, 0x4111
    for flags in (sigchld, thread, vfork, 0x01200011):
        assert tool(arch, "clone", flags) == "allow"
        for name, new in filters.CLONE_NEW.items():
            assert tool(arch, "clone", flags | new) == errno.EPERM, name
            assert tool(arch, "clone", flags | new | HIGH) == errno.EPERM, name
    assert tool(arch, "clone", sum(filters.CLONE_NEW.values()) | sigchld) == errno.EPERM


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("call", ["socket", "socketpair"])
def test_only_unix_and_internet_sockets(call: str, arch: str) -> None:
    for family in (*range(64), 255, 2**31, 2**32 - 1, 2**64 - 1, HIGH | 16):
        verdict = "allow" if family in {1, 2, 10} else errno.EAFNOSUPPORT
        assert tool(arch, call, family, 1, 0) == verdict, family
        assert answer("main", arch, call, family, 1, 0) == ("allow" if family == 1 else errno.EAFNOSUPPORT), family
        assert answer("auditor", arch, call, family, 1, 0) == errno.EPERM


@pytest.mark.parametrize("arch", ARCHES)
def test_only_stream_datagram_and_seqpacket_types(arch: str) -> None:
    for kind, flags in itertools.product(range(16), (0, 0o4000, 0o2000000, 0o2004000, HIGH)):
        assert tool(arch, "socket", 2, kind | flags, 0) == ("allow" if kind in {1, 2, 5} else errno.EPERM), kind


@pytest.mark.parametrize("arch", ARCHES)
def test_only_tcp_and_udp_protocols(arch: str) -> None:
    for protocol in (*range(300), 2**32 - 1):
        wanted = "allow" if protocol in {0, 6, 17} else errno.EPROTONOSUPPORT
        assert tool(arch, "socket", 10, 1, protocol) == wanted, protocol


@pytest.mark.parametrize("arch", ARCHES)
def test_terminal_injection_is_refused_however_the_command_is_dressed(arch: str) -> None:
    """The kernel cuts an ioctl command at 32 bits, so high bits must not hide one (CVE-2019-7303, CVE-2019-10063)."""
    for name, command in itertools.product(FILTERS, (0x5412, 0x541C, 0x541D, 0x5423, 0x401C5820)):
        for high in (0, HIGH, 0xFFFFFFFF << 32, 1 << 63):
            assert answer(name, arch, "ioctl", 0, command | high) == errno.EPERM
    for command in (0x5401, 0x5411, 0x5413, 0x541B, 0x5421, 0x80045430):
        assert tool(arch, "ioctl", 0, command) == "allow"


@pytest.mark.parametrize("arch", ARCHES)
def test_prctl_and_personality_only_harmless_forms(arch: str) -> None:
    for option in (15, 38, 22, 1, 4, 0x59616D61, 0x53564D41):
        assert tool(arch, "prctl", option) == "allow"
        assert tool(arch, "prctl", option | HIGH) == "allow"
    for option in (35, 57, 62, 67):
        for name in FILTERS:
            assert answer(name, arch, "prctl", option) == errno.EPERM
    for option in (0, 500, 2**31, 2**32 - 1):
        assert tool(arch, "prctl", option) == errno.ENOSYS
    for persona in (0, 0xFFFFFFFF, 0x40000):
        assert tool(arch, "personality", persona) == "allow"
    for persona in (8, 0x400000, 0x100000, 0x20000, 0x440000, 1, 0x48000):
        assert tool(arch, "personality", persona) == errno.ENOSYS


@pytest.mark.parametrize("arch", ARCHES)
def test_huge_pages_and_executable_memory_files_are_refused(arch: str) -> None:
    for name in FILTERS:
        assert answer(name, arch, "mmap", 0, 0, 3, 0x22 | 0x40000) == errno.ENOMEM
        assert answer(name, arch, "mmap", 0, 0, 3, 0x22) == "allow"
    assert tool(arch, "shmget", 0, 0, 0o4000 | 0o600) == errno.ENOMEM
    assert tool(arch, "memfd_create", 0, 0x11) == errno.EPERM
    assert tool(arch, "memfd_create", 0, 0x5) == errno.ENOMEM
    for flags in (0, 1, 3, 8, 9):
        assert tool(arch, "memfd_create", 0, flags) == "allow"


@pytest.mark.parametrize("arch", ARCHES)
def test_memory_files_are_withheld_where_they_could_be_executed(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nr = known(arch)["memfd_create"]
    for exists, verdict in ((True, "allow"), (False, errno.ENOSYS)):
        path = "/proc/self/status" if exists else "/proc/sys/vm/nonesuch"
        monkeypatch.setattr(seccomp, "MEMFD_NOEXEC", path)
        assert describe(simulate_all(seccomp.compile_filter("tool", arch), arch, nr, (0, 1))) == verdict
    assert describe(simulate_all(seccomp.compile_filter("tool", arch, memfd=False), arch, nr)) == errno.ENOSYS


@pytest.mark.parametrize("arch", ARCHES)
def test_beside_a_filter_one_call_more_is_withheld_and_no_other_answer_changes(arch: str) -> None:
    extra = seccomp.withheld("memfd_create", arch)
    for name, nr in known(arch).items():
        verdict = describe(simulate_all((extra,), arch, nr))
        assert verdict == (errno.ENOSYS if name == "memfd_create" else "allow"), name


@pytest.mark.parametrize("arch", ARCHES)
def test_no_bpf_program_through_a_socket_option(arch: str) -> None:
    assert tool(arch, "setsockopt", 3, 1, 26) == errno.EPERM
    assert tool(arch, "setsockopt", 3, 1, 51) == errno.EPERM
    assert tool(arch, "setsockopt", 3, 6, 26) == "allow"
    assert tool(arch, "setsockopt", 3, 1, 2) == "allow"


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("name", ["main", "auditor"])
def test_our_own_processes_cannot_start_programs_or_processes(name: str, arch: str) -> None:
    for call in ("execve", "execveat", "fork", "vfork", "kill", "ptrace"):
        if has(arch, call):
            assert answer(name, arch, call) == errno.EPERM, call
    for flags in (17, 0, 0x4111, 0x01200011, HIGH | 17):
        assert answer(name, arch, "clone", flags) == errno.EPERM
    thread = answer(name, arch, "clone", 0x3D0F00)
    assert thread == ("allow" if name == "main" else errno.EPERM)


@pytest.mark.parametrize("arch", ARCHES)
def test_the_auditor_can_append_and_take_back_but_not_remove(arch: str) -> None:
    for call in ("write", "fdatasync", "openat", "renameat2", "recvmsg", "sendmsg", "ftruncate"):
        assert answer("auditor", arch, call) == "allow"
    for call in ("unlinkat", "truncate", "fallocate", "fchmod", "linkat"):
        assert answer("auditor", arch, call) == errno.EPERM


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("name", ["main", "auditor", "parser"])
def test_our_own_processes_leave_the_limits_of_others_alone(name: str, arch: str) -> None:
    assert answer(name, arch, "prlimit64", 0) == "allow"
    for pid in (1, 4711, 1 << 21, (1 << 22) - 1, (1 << 32) - 1):
        assert answer(name, arch, "prlimit64", pid) == errno.EPERM, pid


@pytest.mark.parametrize("arch", ARCHES)
def test_the_parser_starts_programs_but_changes_no_file_and_connects_nowhere(arch: str) -> None:
    for call in ("execve", "kill", "wait4", "prlimit64", "recvmsg", "sendmsg", "chdir"):
        assert answer("parser", arch, call) == "allow", call
    denied = "socket socketpair connect bind accept4 execveat memfd_create unlinkat renameat2 mkdirat ftruncate fchmod"
    for call in denied.split():
        assert answer("parser", arch, call) == errno.EPERM, call
    at = (0x4111, 0x01200011, 17, 0x3D0F00)
    assert {answer("parser", arch, "clone", flags) for flags in at} == {"allow"}
    assert answer("parser", arch, "clone", 0x10000000 | 17) == errno.EPERM


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize(("call", "index"), [("open", 1), ("openat", 2)])
def test_the_parser_opens_for_reading_only(call: str, index: int, arch: str) -> None:
    if not has(arch, call):
        pytest.skip(f"{arch} has no {call}")
    for flags in (0, 0o2000000, 0o10000000, 0o200000, HIGH):
        assert answer("parser", arch, call, *[0] * index, flags) == "allow", oct(flags)
    for flags in (1, 2, 3 & 1 | 0o2000, 0o100, 0o1000, 0o2000101, 0o20200002, HIGH | 1):
        assert answer("parser", arch, call, *[0] * index, flags) == errno.EPERM, oct(flags)


def test_stacked_programs_answer_with_the_strictest() -> None:
    """The simulator itself: whatever the order, an ERRNO of either program wins over ALLOW of the other."""
    (program,) = programs("tool", "x86_64")
    allow = struct.pack("=HBBI", seccomp.BPF_RET_K, 0, 0, seccomp.SECCOMP_RET_ALLOW)
    nr = known("x86_64")["chmod"]
    for both in ((program, allow), (allow, program)):
        assert describe(simulate_all(both, "x86_64", nr, (0, 0o4755))) == errno.EPERM
        assert describe(simulate_all(both, "x86_64", nr, (0, 0o755))) == "allow"


def test_a_chained_program_never_allows_on_the_word_of_the_refusals_alone() -> None:
    """Every allowing return stands in the allow list's part; a refusal that does not match goes on to it."""
    first = struct.pack("=HBBI", seccomp.BPF_RET_K, 0, 0, seccomp.SECCOMP_RET_ALLOW)
    then = struct.pack("=HBBI", seccomp.BPF_RET_K, 0, 0, 0x50000 | errno.ENOSYS)
    for nr in range(10):
        assert describe(simulate(seccomp._chain(first, then), "x86_64", nr)) == errno.ENOSYS
        assert describe(simulate(seccomp._chain(then, first), "x86_64", nr)) == errno.ENOSYS
