"""supervisor/kernel/syscalls.py: numbers that are right, errors that are the kernel's own."""

from __future__ import annotations

import ctypes
import errno
import os
import re
from pathlib import Path

import pyseccomp
import pytest

from supervisor.kernel import syscalls

HEADERS = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"),
    "aarch64": ("/usr/include/asm-generic/unistd.h",),
}


@pytest.mark.parametrize(("machine", "arch"), [("x86_64", pyseccomp.Arch.X86_64), ("aarch64", pyseccomp.Arch.AARCH64)])
def test_every_number_that_libseccomp_knows_is_the_same_in_our_table(machine: str, arch: int) -> None:
    ours = syscalls.numbers(machine)
    known = {name: nr for name in syscalls.TABLE if (nr := pyseccomp.resolve_syscall(arch, name)) >= 0}
    assert len(known) > 70, "the cross-check must cover most of the table"
    assert {name: ours.get(name) for name in known} == known


@pytest.mark.parametrize("machine", syscalls.ARCHITECTURES)
def test_every_number_in_the_kernel_headers_is_the_same_in_our_table(machine: str) -> None:
    header = next((Path(p) for p in HEADERS[machine] if Path(p).exists()), None)
    if header is None:
        pytest.skip("the kernel headers are not installed here")
    found = {m[1]: int(m[2]) for m in re.finditer(r"#define\s+__NR_(\w+)\s+(\d+)", header.read_text())}
    ours = syscalls.numbers(machine)
    shared = found.keys() & ours.keys()
    assert len(shared) > 60
    assert {name: ours[name] for name in shared} == {name: found[name] for name in shared}


@pytest.mark.parametrize("machine", syscalls.ARCHITECTURES)
def test_no_two_calls_share_a_number(machine: str) -> None:
    values = list(syscalls.numbers(machine).values())
    assert len(values) == len(set(values))


@pytest.mark.parametrize("machine", ["riscv64", "i686", "armv7l", "", "x86"])
def test_an_unknown_architecture_is_refused_and_not_guessed(machine: str) -> None:
    with pytest.raises(OSError, match="no system call table") as caught:
        syscalls.numbers(machine)
    assert caught.value.errno == errno.ENOTSUP


def test_a_call_that_aarch64_never_had_is_absent_there() -> None:
    assert "creat" not in syscalls.numbers("aarch64")
    assert syscalls.numbers("x86_64")["creat"] == 85


def test_a_call_returns_what_the_kernel_returns() -> None:
    assert syscalls.call("getpid") == os.getpid()
    assert syscalls.call(syscalls.NR["getpid"]) == os.getpid()
    assert syscalls.call_holding_gil("getpid") == os.getpid()


@pytest.mark.parametrize("function", [syscalls.call, syscalls.call_holding_gil])
def test_a_failed_call_raises_the_kernels_errno(function: object) -> None:
    assert callable(function)
    with pytest.raises(OSError, match="No such file") as caught:
        function("openat", -100, b"/nonexistent/file", os.O_RDONLY, 0)
    assert caught.value.errno == errno.ENOENT


def test_a_stale_errno_does_not_fail_a_call_that_succeeded() -> None:
    ctypes.set_errno(errno.EPERM)
    try:
        assert syscalls.call("getpid") == os.getpid()
    finally:
        ctypes.set_errno(0)


def test_negative_and_64_bit_arguments_arrive_whole() -> None:
    """AT_FDCWD (-100) works as a dirfd, and a file offset above 4 GiB is not cut."""
    fd = syscalls.call("openat", -100, b"/dev/zero", os.O_RDONLY | os.O_CLOEXEC, 0)
    os.close(fd)
    fd = syscalls.call("memfd_create", b"offset", 1)
    try:
        lseek = {"x86_64": 8, "aarch64": 62}[syscalls.MACHINE]
        assert syscalls.call(lseek, fd, 2**40 + 7, os.SEEK_SET) == 2**40 + 7
    finally:
        os.close(fd)


def test_a_path_with_a_nul_is_refused_before_the_kernel_cuts_it() -> None:
    assert syscalls.path("/tmp/ä") == os.fsencode("/tmp/ä")
    for name in ("/etc/passwd\0.txt", b"/x\0"):
        with pytest.raises(OSError, match="NUL") as caught:
            syscalls.path(name)
        assert caught.value.errno == errno.EINVAL
