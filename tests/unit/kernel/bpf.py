"""A simulator of seccomp's classic BPF: what a program answers, for any architecture, without a kernel.

Only what seccomp(2) admits: 32-bit loads from struct seccomp_data, jumps, masks, returns. Anything else is an error.
"""

from __future__ import annotations

import struct
from functools import cache

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "i386": 0x40000003, "arm": 0x40000028}
X32_BIT = 0x40000000

KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, USER_NOTIF, TRACE, LOG, ALLOW = (
    0x80000000, 0, 0x30000, 0x50000, 0x7FC00000, 0x7FF00000, 0x7FFC0000, 0x7FFF0000,
)  # fmt: skip
_STRICTEST_FIRST = (KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, USER_NOTIF, TRACE, LOG, ALLOW)

_LD_ABS, _LD_IMM, _JA, _JEQ, _JGT, _JGE, _JSET, _AND, _RET = 0x20, 0x00, 0x05, 0x15, 0x25, 0x35, 0x45, 0x54, 0x06


@cache
def _decode(program: bytes) -> list[tuple[int, int, int, int]]:
    return list(struct.iter_unpack("=HBBI", program))


def simulate(program: bytes, arch: str, nr: int, args: tuple[int, ...] = ()) -> int:
    """The action of one program. `args` are registers: taken as unsigned 64 bits, missing ones are 0."""
    registers = [a & (2**64 - 1) for a in args] + [0] * (6 - len(args))
    data = struct.pack("=IIQ6Q", nr & 0xFFFFFFFF, AUDIT_ARCH[arch], 0, *registers)
    code = _decode(program)
    a, pc = 0, 0
    while True:
        op, jt, jf, k = code[pc]
        pc += 1
        if op == _RET:
            return int(k)
        if op == _LD_ABS:
            assert k % 4 == 0
            a = int.from_bytes(data[k : k + 4], "little")
            assert k + 4 <= len(data)
        elif op == _LD_IMM:
            a = k
        elif op == _AND:
            a &= k
        elif op == _JA:
            pc += k
        else:
            taken = {_JEQ: a == k, _JGT: a > k, _JGE: a >= k, _JSET: bool(a & k)}[op]
            pc += jt if taken else jf


def simulate_all(programs: tuple[bytes, ...], arch: str, nr: int, args: tuple[int, ...] = ()) -> int:
    """The action of stacked programs: the strictest, and of equals the one loaded last (seccomp(2))."""
    answers = [simulate(program, arch, nr, args) for program in reversed(programs)]
    return min(answers, key=lambda answer: _STRICTEST_FIRST.index(answer & 0xFFFF0000))


def describe(action: int) -> str | int:
    """ "allow", "kill", or the errno."""
    if action == ALLOW:
        return "allow"
    if action == KILL_PROCESS:
        return "kill"
    assert action & 0xFFFF0000 == ERRNO, hex(action)
    return action & 0xFFFF
