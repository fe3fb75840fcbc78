"""Read what is not ours, write what is not ours, leave something behind that acts for its owner."""

# ruff: noqa: ARG005 - every attempt is given the target, whether it looks at it or not

import ctypes
import os
import stat
import struct
import subprocess

from common import INHERITED, TARGET, Absent, attempt, call, main, read, several

# PID 1 of a host is not everybody's to look at, not even root's, so unconfined another process stands in for it.
FIRST = f"/proc/{TARGET.get('stand_in', 1)}/root"
ROOTS = (
    ("root", "/proc/self/root"),
    ("root_up", "/proc/self/root/../.."),
    ("root_of_1", FIRST),
    ("thread_root", "/proc/thread-self/root"),
    ("cwd_up", "/proc/self/cwd" + "/.." * 20),
)
UP = "/.." * 20
AT_FDCWD = -100
O_TMPFILE = 0o20000000 | os.O_DIRECTORY


def fresh(name):
    """A path of the workspace where nothing is."""
    for path in (name, name + ".d"):
        if os.path.lexists(path):
            os.unlink(path)
    return name


def secret_in(text, target):
    return text if any(token in text for token in target["tokens"]) else None


# --- reading --------------------------------------------------------------------------------------------------

for key in ("world", "hidden", "in_tmp", "policy", "audit"):
    several(f"read_{key}", [
        ("path", ""),
        ("above_workspace", os.getcwd() + UP),
        *ROOTS,
    ], lambda t, prefix, key=key: secret_in(read(prefix + t[key]), t))  # fmt: skip


@attempt
def read_by_symlink(t):
    os.symlink(t["world"], fresh("link"))
    return secret_in(read("link"), t)


@attempt
def read_by_planted_symlink(t):
    return secret_in(read(t["planted"]), t)


@attempt
def read_by_planted_directory_symlink(t):
    return secret_in(read(t["planted_directory"] + "/world"), t)


@attempt
def read_by_hardlink(t):
    os.link(t["world"], fresh("hard"))
    return secret_in(read("hard"), t)


@attempt
def read_by_hardlink_through_proc(t):
    os.link(FIRST + t["world"], fresh("hard"))
    return secret_in(read("hard"), t)


@attempt
def read_by_rename(t):
    os.rename(t["world"], fresh("moved"))
    text = read("moved")
    os.rename("moved", t["world"])
    return secret_in(text, t)


@attempt
def read_after_walking_up(t):
    for _ in range(40):
        os.chdir("..")
    return secret_in(read(t["world"].lstrip("/")), t)


@attempt
def read_after_walking_up_by_descriptor(t):
    fd = os.open(".", os.O_PATH)
    for _ in range(40):
        fd = os.open("..", os.O_PATH, dir_fd=fd)
    found = os.open(t["world"].lstrip("/"), os.O_RDONLY, dir_fd=fd)
    return secret_in(os.read(found, 4096).decode(), t)


@attempt
def read_by_a_process_of_the_system(t):
    done = subprocess.run(["/bin/cat", t["world"], FIRST + t["world"]], capture_output=True, text=True)
    return secret_in(done.stdout, t)


@attempt
def read_through_any_process(t):
    for n in [*range(1, 300), *t["pids"]]:
        for where in ("root", "cwd"):
            try:
                return secret_in(read(f"/proc/{n}/{where}{t['world']}"), t) or None
            except OSError:
                continue
    return None


@attempt
def read_environment_of_the_supervisor(t):
    for n in [*range(1, 300), *t["pids"]]:
        try:
            if "NOTIFY_SOCKET=" in read(f"/proc/{n}/environ"):
                return n
        except OSError:
            continue
    return None


@attempt
def read_command_line_of_the_supervisor(t):
    for n in [*range(1, 300), *t["pids"]]:
        if n in (os.getpid(), os.getppid()):
            continue  # the target stands in our own
        try:
            if t["root"] in read(f"/proc/{n}/cmdline"):
                return n
        except OSError:
            continue
    return None


@attempt
def inherit_environment(t):
    return next((k for k in os.environ if k in ("NOTIFY_SOCKET", "PYTHONPATH", "LISTEN_FDS", "SUDO_USER")), None)


@attempt
def inherit_descriptors(t):
    return [(fd, os.readlink(f"/proc/self/fd/{fd}")) for fd in INHERITED if fd > 2] or None


@attempt
def standard_descriptors_lead_somewhere(t):
    kinds = [os.fstat(fd).st_mode for fd in INHERITED]
    if any(stat.S_ISDIR(k) or stat.S_ISSOCK(k) or stat.S_ISBLK(k) or stat.S_ISREG(k) for k in kinds):
        return [oct(k) for k in kinds]
    return None


@attempt
def read_shadow(t):
    text = read("/etc/shadow")
    return text if "root:" in text else None


@attempt
def list_accounts_of_the_host(t):
    text = read("/etc/passwd")
    return t["account"] if t["account"] in text else None


several("list", [
    ("root_home", "/root"), ("sys", "/sys/fs"), ("run", "/run/lock"), ("boot", "/boot"), ("etc", "/etc/cron.d"),
], lambda t, path: os.listdir(path))  # fmt: skip

several("open", [
    ("mem", "/dev/mem", os.O_RDONLY),
    ("kcore", "/proc/kcore", os.O_RDONLY),
    ("kmsg", "/dev/kmsg", os.O_RDONLY),
    ("disk", "/dev/vda", os.O_RDONLY),
    ("console", "/dev/console", os.O_WRONLY | os.O_NOCTTY),
    ("core_pattern", "/proc/sys/kernel/core_pattern", os.O_WRONLY),
    ("modprobe", "/proc/sys/kernel/modprobe", os.O_WRONLY),
    ("memfd_noexec", "/proc/sys/vm/memfd_noexec", os.O_WRONLY),
    ("oom_score_adj_of_1", "/proc/1/oom_score_adj", os.O_WRONLY),
    ("sysrq", "/proc/sysrq-trigger", os.O_WRONLY),
    ("cgroups", "/sys/fs/cgroup/cgroup.procs", os.O_WRONLY),
    ("cgroups_v1", "/sys/fs/cgroup/pids/cgroup.procs", os.O_WRONLY),
], lambda t, path, flags: _opened(path, flags))  # fmt: skip


def _opened(path, flags):
    if not os.path.exists(path):
        raise Absent(path)
    fd = os.open(path, flags)
    if stat.S_ISCHR(os.fstat(fd).st_mode) and os.fstat(fd).st_rdev == os.makedev(1, 3):
        return None  # masked
    return "opened"


# --- writing --------------------------------------------------------------------------------------------------


def _write(path):
    with open(path, "r+b") as f:
        f.write(b"attacked")
    return path


several("write", [
    ("path", ""),
    ("above_workspace", os.getcwd() + UP),
    *ROOTS,
], lambda t, prefix: _write(prefix + t["writable"]))  # fmt: skip


@attempt
def write_by_symlink(t):
    os.symlink(t["writable"], fresh("wlink"))
    return _write("wlink")


@attempt
def write_by_planted_symlink(t):
    return _write(t["planted_writable"])


@attempt
def write_by_hardlink(t):
    os.link(t["writable"], fresh("whard"))
    return _write("whard")


several("change", [
    ("create", lambda t: os.close(os.open(t["open"] + "/created", os.O_CREAT | os.O_WRONLY))),
    ("create_by_planted_symlink", lambda t: os.close(os.open(t["planted_open"] + "/made2", os.O_CREAT | os.O_WRONLY))),
    ("mkdir", lambda t: os.mkdir(t["open"] + "/made")),
    ("symlink", lambda t: os.symlink("x", t["open"] + "/pointing")),
    ("mkfifo", lambda t: os.mkfifo(t["open"] + "/fifo")),
    ("rename_out", lambda t: (open("own", "w").close(), os.rename("own", t["open"] + "/moved"))),
    ("link_out", lambda t: (open("own2", "w").close(), os.link("own2", t["open"] + "/linked"))),
    ("truncate", lambda t: os.truncate(t["writable"], 1)),
    ("chmod", lambda t: os.chmod(t["writable"], 0o600)),
    ("utime", lambda t: os.utime(t["writable"], (1, 1))),
    ("xattr", lambda t: os.setxattr(t["writable"], "user.attacked", b"1")),
    ("unlink", lambda t: os.unlink(t["open"] + "/expendable")),
], lambda t, act: (act(t), "done")[1])  # fmt: skip


several("change_system", [
    ("usr", "/usr/stockade-attack", os.O_CREAT | os.O_WRONLY),
    ("etc", "/etc/stockade-attack", os.O_CREAT | os.O_WRONLY),
    ("top", "/stockade-attack", os.O_CREAT | os.O_WRONLY),
    ("program", "/usr/bin/env", os.O_WRONLY),
    ("own_program", "/proc/self/exe", os.O_WRONLY),
], lambda t, path, flags: _change_system(t, path, flags))  # fmt: skip


def _change_system(t, path, flags):
    if t["control"]:
        raise Absent("the host's own is left alone")
    os.open(path, flags)
    return "opened"


# --- what would act for the workspace's owner -----------------------------------------------------------------


def _made(path):
    mode = os.lstat(path).st_mode
    if stat.S_ISBLK(mode) or stat.S_ISCHR(mode) or mode & (stat.S_ISUID | stat.S_ISGID):
        return oct(mode)
    return None


def _plain(name):
    path = fresh(name)
    with open(path, "w") as f:
        f.write("#!/bin/sh\n")
    return path


for bits in (0o4755, 0o2755, 0o6777):
    several(f"setid_{bits:o}", [
        ("chmod", lambda p, b: os.chmod(_plain(p), b)),
        ("fchmod", lambda p, b: os.fchmod(os.open(_plain(p), os.O_RDONLY), b)),
        ("fchmodat", lambda p, b: os.chmod(_plain(p), b, dir_fd=os.open(".", os.O_RDONLY))),
        ("fchmodat2", lambda p, b: call("fchmodat2", AT_FDCWD, _plain(p).encode(), b, 0x100)),
        ("fchmodat2_empty_path", lambda p, b: call("fchmodat2", os.open(_plain(p), os.O_PATH), b"", b, 0x1000)),
        ("proc_fd", lambda p, b: os.chmod(f"/proc/self/fd/{os.open(_plain(p), os.O_RDONLY)}", b)),
        ("openat", lambda p, b: os.open(fresh(p), os.O_CREAT | os.O_WRONLY, b)),
        ("creat", lambda p, b: _creat(fresh(p), b)),
        ("mknod", lambda p, b: os.mknod(fresh(p), stat.S_IFREG | b)),
        ("mknod_without_type", lambda p, b: call("mknodat", AT_FDCWD, fresh(p).encode(), b, 0)),
        ("tmpfile", lambda p, b: _tmpfile(fresh(p), b)),
        ("openat2", lambda p, b: call("openat2", AT_FDCWD, fresh(p).encode(), _how(b), 24)),
        ("high_bits", lambda p, b: call("fchmodat2", AT_FDCWD, _plain(p).encode(), b | 1 << 40, 0)),
        ("directory", lambda p, b: (os.mkdir(p), os.chmod(p, b))),
        ("tool", lambda p, b: _quietly("/bin/chmod", f"{b:o}", _plain(p))),
        ("install", lambda p, b: _quietly("/usr/bin/install", "-m", f"{b:o}", "/usr/bin/id", fresh(p))),
    ], lambda t, act, b=bits: _try_setid(act, b))  # fmt: skip


def _quietly(*command):
    subprocess.run(command, capture_output=True, check=False)


def _how(bits):
    """struct open_how of openat2(2)."""
    return ctypes.create_string_buffer(struct.pack("QQQ", os.O_CREAT | os.O_WRONLY, bits, 0), 24)


def _creat(path, bits):
    import platform

    if platform.machine() == "aarch64":
        raise Absent("not on this architecture")
    call(85, path.encode(), bits)


def _tmpfile(path, bits):
    fd = os.open(".", O_TMPFILE | os.O_RDWR, bits)
    call("linkat", AT_FDCWD, f"/proc/self/fd/{fd}".encode(), AT_FDCWD, path.encode(), 0x400)  # AT_SYMLINK_FOLLOW


def _try_setid(act, bits):
    path = f"setid-{os.getpid()}"
    os.umask(0)
    act(path, bits)
    return _made(path) if os.path.lexists(path) else _made(path + ".d") if os.path.lexists(path + ".d") else None


@attempt
def setid_by_copying_a_program(t):
    _quietly("/bin/cp", "-p", "/usr/bin/su", fresh("su"))
    return _made("su")


@attempt
def setid_by_linking_a_program(t):
    os.link("/usr/bin/su", fresh("su2"))
    return _made("su2")


@attempt
def file_capability(t):
    path = _plain("capable")
    # VFS_CAP_REVISION_2 with CAP_SETUID effective and permitted
    os.setxattr(path, "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 7, 0, 0, 0))
    return path


several("device", [
    ("block", stat.S_IFBLK, 254, 0),
    ("mem", stat.S_IFCHR, 1, 1),
    ("null", stat.S_IFCHR, 1, 3),
    ("whiteout", stat.S_IFCHR, 0, 0),
], lambda t, kind, major, minor: _device(kind, major, minor))  # fmt: skip


def _device(kind, major, minor):
    path = f"device-{kind}-{major}-{minor}"
    os.mknod(fresh(path), kind | 0o666, os.makedev(major, minor))
    return _made(path)


@attempt
def device_left_by_a_rename(t):
    """RENAME_WHITEOUT leaves a character device, and asks for no capability since Linux 5.8."""
    path = _plain("device-rename")
    call("renameat2", AT_FDCWD, path.encode(), AT_FDCWD, fresh("device-renamed").encode(), 4)
    return _made(path)


@attempt
def gain_by_setid_program(t):
    """A set-uid program of the host gives nothing: no_new_privs and nosuid."""
    if os.geteuid() == 0:
        raise Absent("already root")
    done = subprocess.run([t["setuid_program"], "-u"], capture_output=True, text=True)
    return done.stdout.strip() if done.stdout.strip() == "0" else None


main()
