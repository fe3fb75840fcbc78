"""From the tables of `filters.py` to programs in the kernel: seccomp(2), libseccomp by way of pyseccomp.

Compiling needs libseccomp and happens once, in a parent. Loading is one system call per program and needs nothing
but bytes, so that it can happen between fork and exec.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import TYPE_CHECKING, Any

from supervisor.kernel.filters import FILTERS
from supervisor.kernel.syscalls import MACHINE, call, numbers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from supervisor.kernel.rules import Arg, Filter

SECCOMP_SET_MODE_FILTER = 1
SECCOMP_RET_ALLOW = 0x7FFF0000
SECCOMP_RET_ERRNO = 0x00050000
INSTRUCTION_BYTES = 8  # struct sock_filter
MEMFD_NOEXEC = "/proc/sys/vm/memfd_noexec"  # per PID namespace
BPF_LD_W_ABS = 0x20
BPF_JMP_JA = 0x05
BPF_JMP_JEQ_K = 0x15
BPF_RET_K = 0x06

# No SECCOMP_FILTER_FLAG_LOG: a denial is an answer to the program, and must not fill the host's log (kills are
# logged all the same). No SECCOMP_FILTER_FLAG_SPEC_ALLOW: before kernel 5.16 a filtered process gets the speculative
# store bypass mitigation with its filter, and code that agents write is what that is for.
FLAGS = 0


def compile_filter(name: str, machine: str = MACHINE, *, memfd: bool | None = None) -> tuple[bytes, ...]:
    """The programs of a filter of FILTERS ("tool", "main" …) as classic BPF, in the order of loading; one today.

    `memfd` says whether memfd_create(2) stays allowed where the table allows it. By default it does on kernels that
    have vm.memfd_noexec (6.3): elsewhere a file in memory could be executed, and no Landlock rule would be asked.

    Another `machine` than this one is for looking at, not for use: libseccomp can only translate those calls that it
    knows by name.

    Raises KeyError for an unknown filter, OSError when a rule cannot be compiled.
    """
    import pyseccomp  # loads libseccomp: 23 ms and 5 MB that a child must not pay

    table = FILTERS[name]
    resolve = _Resolver(pyseccomp, machine)
    if memfd is None:
        memfd = os.path.exists(MEMFD_NOEXEC)
    withheld = frozenset() if memfd else frozenset({"memfd_create"})
    return (_chain(_refusals(pyseccomp, resolve, table), _allow_list(pyseccomp, resolve, table, withheld)),)


def withheld(name: str, machine: str = MACHINE) -> bytes:
    """A program to load beside a filter: one call more is answered as if the kernel did not have it.

    It looks at the number alone (seccomp(2), struct seccomp_data): what comes with another architecture the filter
    kills, and of several answers the kernel takes the strictest.
    """
    code = (
        (BPF_LD_W_ABS, 0, 0, 0),
        (BPF_JMP_JEQ_K, 0, 1, numbers(machine)[name]),
        (BPF_RET_K, 0, 0, SECCOMP_RET_ERRNO | errno.ENOSYS),
        (BPF_RET_K, 0, 0, SECCOMP_RET_ALLOW),
    )
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


class Loadable:
    """Programs laid out for the kernel, so that a child made later has nothing to copy before it loads them."""

    def __init__(self, programs: tuple[bytes, ...]) -> None:
        self._held = [ctypes.create_string_buffer(program, len(program)) for program in programs]
        # struct sock_fprog: unsigned short len, then an aligned pointer
        self._fprogs = [
            struct.pack("=H6xQ", len(held) // INSTRUCTION_BYTES, ctypes.addressof(held)) for held in self._held
        ]

    def load(self) -> None:
        """Install them on the calling thread, for good. Needs no_new_privs (EACCES); threads started before stay out.

        If one fails the earlier ones are in force, so the caller must end.
        """
        for fprog in self._fprogs:
            call("seccomp", SECCOMP_SET_MODE_FILTER, FLAGS, fprog)


def load(programs: tuple[bytes, ...]) -> None:
    """Lay out and load at once."""
    Loadable(programs).load()


def receipt(name: str, programs: tuple[bytes, ...]) -> dict[str, Any]:
    """What was loaded: {"filter", "programs", "instructions"}."""
    return {
        "filter": name,
        "programs": len(programs),
        "instructions": sum(len(program) for program in programs) // INSTRUCTION_BYTES,
    }


class _Resolver:
    """Names to the numbers that libseccomp wants, which are always this machine's."""

    def __init__(self, pyseccomp: Any, machine: str) -> None:
        self.lib = pyseccomp
        self.foreign = machine != MACHINE
        self.arches = {"x86_64": pyseccomp.Arch.X86_64, "aarch64": pyseccomp.Arch.AARCH64}
        self.target = self.arches[machine]
        self.ours = numbers(MACHINE)
        self.theirs = numbers(machine)

    def __call__(self, names: Iterable[str]) -> list[int]:
        """The numbers of those calls that the target has. Raises OSError(EINVAL) for a name that nobody has."""
        return [nr for name in sorted(names) if (nr := self.number(name)) is not None]

    def number(self, name: str) -> int | None:
        known = {a: self.lib.resolve_syscall(token, name) for a, token in self.arches.items()}
        if not any(nr >= 0 for nr in known.values()) and name not in self.ours and name not in self.theirs:
            raise OSError(errno.EINVAL, f"{name!r} is not a system call that libseccomp or the table knows")
        # An unknown name comes back from libseccomp as -1 without an error, and an absent one as a negative
        # stand-in: neither may become a rule.
        native = known[MACHINE] if known[MACHINE] >= 0 else self.ours.get(name)
        if self.foreign and known[MACHINE] < 0:
            return None
        return native


def _new(lib: Any, resolve: _Resolver, default: int) -> Any:
    program = lib.SyscallFilter(default)
    # x32 shares the x86_64 token and differs in a bit of the number: libseccomp sends it here as well.
    program.set_attr(lib.Attr.ACT_BADARCH, lib.KILL_PROCESS)
    # A binary tree by number in place of a chain of comparisons (libseccomp 2.5): 9 steps for a call, not 300.
    program.set_attr(lib.Attr.CTL_OPTIMIZE, 2)
    if resolve.foreign:
        program.add_arch(resolve.target)
        program.remove_arch(lib.Arch.NATIVE)
    return program


def _allow_list(lib: Any, resolve: _Resolver, table: Filter, withheld: frozenset[str]) -> bytes:
    program = _new(lib, resolve, lib.ERRNO(errno.ENOSYS))
    for nr in resolve(table.names("allow") - withheld):
        program.add_rule(lib.ALLOW, nr)
    for nr in resolve(table.names("deny")):
        program.add_rule(lib.ERRNO(errno.EPERM), nr)
    for rule in table.only_if:
        for nr in resolve(rule.names):
            program.add_rule(lib.ALLOW, nr, *(_condition(lib, arg) for arg in rule.when))
    return _export(program)


def _refusals(lib: Any, resolve: _Resolver, table: Filter) -> bytes:
    program = _new(lib, resolve, lib.ALLOW)
    for rule in table.refuse:
        for nr in resolve(rule.names):
            program.add_rule(lib.ERRNO(rule.errno), nr, *(_condition(lib, arg) for arg in rule.when))
    return _export(program)


def _chain(first: bytes, then: bytes) -> bytes:
    """One program that answers as `first` does unless that allows, and then as `then` does.

    The kernel would combine two loaded programs to the same effect; one loads a tenth faster, and saves 15 ns on each
    call whose arguments count. Only the allowing returns change, each to a jump of the same size, so no other moves.
    """
    code = list(struct.iter_unpack("=HBBI", first))
    chained = [
        (BPF_JMP_JA, 0, 0, len(code) - at - 1) if (op, k) == (BPF_RET_K, SECCOMP_RET_ALLOW) else (op, jt, jf, k)
        for at, (op, jt, jf, k) in enumerate(code)
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in chained) + then


def _condition(lib: Any, arg: Arg) -> Any:
    if arg.op == "above":
        return lib.Arg(arg.index, lib.GT, arg.value)
    return lib.Arg(arg.index, lib.MASKED_EQ, arg.mask, arg.value)


def _export(program: Any) -> bytes:
    with os.fdopen(os.memfd_create("seccomp", os.MFD_CLOEXEC), "w+b", buffering=0) as file:
        program.export_bpf(file)
        file.seek(0)
        return file.read()
