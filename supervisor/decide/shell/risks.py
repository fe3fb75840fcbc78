"""Signs of danger in one command; the kinds are those of policy.words.RISKS. Pure.

A sign has to be worth a question: what ordinary development does every hour (deleting build directories, installing
packages, resetting a branch) shows none.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

from supervisor.decide.shell import admin, places, services
from supervisor.decide.shell import flow as f
from supervisor.decide.shell.marks import ANY, SUBST, collapsed, shown, unknown
from supervisor.decide.shell.match import mode
from supervisor.decide.shell.options import letters, operands
from supervisor.decide.shell.programs import base

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.decide.shell.calls import Call

_DANGEROUS = re.compile(
    r"^(?:--no-preserve-root|--recursive|-[a-zA-Z]*[rR][a-zA-Z]*f[a-zA-Z]*|-[a-zA-Z]*f[a-zA-Z]*[rR][a-zA-Z]*|of=/dev/.*"
    r"|[ugoa]*\+s|0?[2467]?777|/etc/(?:shadow|passwd|sudoers).*|-delete|rm|mkfs.*|/dev/(?:sd|nvme|vd|hd).*|--force)$"
)
_MINERS = frozenset(
    ["xmrig", "cgminer", "bfgminer", "minerd", "cpuminer", "ethminer", "t-rex", "nbminer", "phoenixminer", "lolminer",
     "claymore", "xmr-stak", "ccminer", "sgminer", "gminer", "teamredminer", "nanominer", "srbminer", "kawpowminer",
     "cpuminer-multi", "xmrig-proxy", "packetcrypt", "nheqminer"]
)  # fmt: skip
_SCANNERS = frozenset(
    ["nmap", "masscan", "zmap", "rustscan", "unicornscan", "nikto", "hydra", "medusa", "ncrack", "sqlmap", "gobuster",
     "dirb", "dirbuster", "wfuzz", "ffuf", "arp-scan", "netdiscover", "wpscan", "enum4linux", "nbtscan", "fping",
     "hping3",
     "tcpdump", "tshark", "ettercap", "bettercap", "responder", "aircrack-ng", "msfconsole", "msfvenom", "amass",
     "subfinder", "nuclei", "dnsenum", "dnsrecon", "fierce", "feroxbuster", "john", "hashcat", "zgrab", "crackmapexec"]
)  # fmt: skip
IMAGES = _MINERS | _SCANNERS  # images of containers by these names start the program
_PRIVILEGE = frozenset(
    ["sudo", "doas", "su", "pkexec", "runuser", "chroot", "unshare", "nsenter", "setcap", "capsh", "visudo", "usermod",
     "useradd", "adduser", "groupadd", "gpasswd", "passwd", "chpasswd", "chown", "chgrp", "mount", "umount", "insmod",
     "modprobe", "rmmod", "kexec", "sg", "newgrp", "sudoedit", "vipw", "vigr", "losetup", "pivot_root", "setpriv",
     "gosu", "su-exec", "setuidgid", "s6-setuidgid", "newuidmap", "newgidmap", "iptables", "ip6tables", "nft", "sysctl",
     "ufw", "firewall-cmd", "setenforce", "aa-disable", "aa-teardown", "run0", "machinectl", "chattr"]
)  # fmt: skip
_ENDS = frozenset(["shutdown", "reboot", "halt", "poweroff", "telinit", "init"])
_DEVICES = frozenset(
    ["wipefs", "blkdiscard", "fdisk", "sfdisk", "parted", "sgdisk", "gdisk", "cfdisk", "mkswap", "hdparm", "nvme",
     "cryptsetup", "dmsetup", "pvremove", "vgremove", "lvremove", "zpool", "badblocks", "mke2fs", "newfs", "dban",
     "nwipe", "mdadm"]
)  # fmt: skip
# A directory that anybody may fill, and a name that is not meant to be seen.
_HIDDEN = re.compile(r"/(?:tmp|var/tmp)/(?:[^/]+/)*\.[^/.]|/dev/shm/")
# Names of files that are looked for, and texts that are, by whoever wants keys.
_KEY_FILE = re.compile(
    r"\*?(?:id_(?:rsa|dsa|ecdsa|ed25519)|_rsa|shadow|wallet\.dat|credentials|\.netrc|\.pgpass|\.git-credentials|\.htpasswd"
    r"|[\w*]*\.(?:kdbx|p12|pfx|ppk|jks|keystore))\*?"
)
_KEY_TEXT = re.compile(
    r"BEGIN[\w .*\\]*PRIVATE KEY|PRIVATE KEY-|AKIA|gh[pousr]_|xox[abp]-"
    r"|aws_(?:secret_access_key|session_token)",
    re.IGNORECASE,
)

# Programs that belong to the system; anything else that is run by its path is a file that somebody may look at.
_INSTALLED = re.compile(r"/(?:usr|bin|sbin|lib|lib64|opt|nix/store)/")


_UNKNOWN = re.compile(f"[{ANY}{SUBST}]")
# What is only known at run time, where a shell looks for a command.
_UNKNOWN_COMMAND = re.compile(rf"(?:^|[;&|\n])[ \t]*[{ANY}{SUBST}]")


def dynamic(call: Call) -> None:
    """A command of which only the run will know what it is."""
    first, rest = call.words[0], call.words[1:]
    traits = call.traits()
    if f.HELD in traits and not _UNKNOWN.search(first):  # it is an argument that came from there
        traits = f.NOTHING_AT_ALL
    call.risk("dynamic", f"what {shown(first)} runs is only known at run time")
    if any(_DANGEROUS.match(collapsed(w)) or places.vast(collapsed(w)) for w in rest if w) or (
        len(first) > 1 and not rest and re.search(r"rm.*-rf?|mkfs|/dev/sd", collapsed(first)) is not None
    ):
        call.risk("evasion", f"a program that is only known at run time, before {' '.join(map(shown, rest))}")
    _untrusted(call, traits, shown(first))


def _untrusted(call: Call, traits: frozenset[str], what: str) -> None:
    if f.NET in traits:
        call.risk("remote_code", f"{what} runs what came over the network")
    if f.DECODED in traits:
        call.risk("evasion", f"{what} runs text that was decoded before")


def code(call: Call, given: f.Flow, what: str) -> None:
    """A shell or interpreter that reads its code from somewhere."""
    if f.HELD not in given.traits or given.text is None or _UNKNOWN_COMMAND.search(given.text):
        _untrusted(call, given.traits, what)
    for name in given.files:
        call.walk.scripts[name] = None
    if given.text is None and not given.traits & {f.NET, f.DECODED, f.SETTINGS, f.FILE}:
        call.risk("dynamic", f"what {what} runs is only known at run time")


def look(call: Call) -> None:
    """All signs that one command shows by itself."""
    name = call.name
    words = call.words
    found = _BY_NAME.get(name)
    if found is not None:
        found(call)
    elif name.startswith(("mkfs.", "fsck.")):
        call.risk("destructive", f"{name} works on devices")
    if "/" in words[0] and not _INSTALLED.match(words[0]):
        call.walk.scripts[words[0]] = None
        ran_script(call, words[0])
        if _HIDDEN.match(words[0]):
            call.risk("evasion", f"{words[0]} is a program where nobody looks")
    for w in words:
        if len(w) > 8 and ("://" in w or "169.254.169.254" in w or "metadata.google" in w):
            services.addresses(call, w)


# What one runs to build what one has fetched: what it does is no more than make(1) does, which nobody is asked about.
_BUILDS = re.compile(r"configure|autogen\.sh|bootstrap(?:\.sh)?|gradlew|mvnw|waf|(?:build|make|test)\w*(?:\.sh)?")


def ran_script(call: Call, path: str) -> None:
    """A file that a shell or interpreter is told to run."""
    walk = call.walk
    bare, full = path.removeprefix("./"), places.below(path, call.scope)
    if {bare, full} & walk.decoded:
        call.risk("evasion", f"{path} is text that was decoded before")
    if {bare, full} & walk.downloaded or (walk.fetched and (unknown(path) or base(path) == "*")):
        call.risk("remote_code", f"{path} came over the network")
    elif not _BUILDS.fullmatch(base(path)) and any(
        one.startswith(d + "/") or (d == "." and full[:1] not in ("/", "~")) for d in walk.trees for one in (bare, full)
    ):
        call.risk("remote_code", f"{path} came over the network with all that is beside it")


_BELOW_ROOT = re.compile(f"/+[{ANY}{SUBST}]+(?:/\\*)?")
# What the system and its services keep. Lists of packages and caches are there to be deleted.
_OF_OTHERS = re.compile(r"/var/lib/(?!apt/lists)|/var/(?:www|backups|db|spool|mail)/|/(?:mnt|media)/")


def _rm(call: Call) -> None:
    options = letters(call.words)
    recursive = bool(options & {"r", "R"}) or any("recursive".startswith(o) for o in options if len(o) > 1)
    cwd = call.scope.cwd
    for w in operands(call.words):
        if not recursive and not w.rstrip("/").endswith("*"):
            continue
        if places.vast(w, cwd if not unknown(w) else ""):
            call.risk("destructive", f"deletes all of {w}")
            if places.root(w, cwd) and not places.root(w):
                _as_root(call, f"cd {cwd}")
        elif places.vast_if_empty(w, cwd):
            call.risk("destructive", f"deletes all of {collapsed(w)} if the variable in it is not set")
        elif _BELOW_ROOT.fullmatch(w) or (recursive and _OF_OTHERS.match(places.normal(w, cwd))):
            call.risk("destructive", f"deletes {shown(w)}, which is not the workspace's")
        elif recursive and (places.here(w, call.scope) or (places.normal(w) == ".git" and not call.scope.below)):
            call.risk("destructive", f"deletes {'the history' if '.git' in w else 'all that is here'}")


def _as_root(call: Call, via: str) -> None:
    scope = call.inner(via)
    call.walk.command(["rm", "-rf", "/"], scope, call.span, [], f.EMPTY)


def _over(call: Call) -> None:
    """shred, truncate, wipe: the contents are gone for good."""
    for w in operands(call.words):
        if not unknown(w) and (places.vast(w) or w.startswith(("/etc/", "/usr/", "/boot/", "/var/", "~/"))):
            call.risk("destructive", f"{call.name} destroys {w}")
    if call.name in ("shred", "srm", "wipe") and not [w for w in operands(call.words) if not unknown(w)]:
        call.risk("destructive", f"{call.name} destroys files beyond repair")


def _dd(call: Call) -> None:
    for w in call.words[1:]:
        if w.startswith("of=") and places.DEVICE.match(w[3:]):
            call.risk("destructive", f"writes to the device {w[3:]}")


def _mv(call: Call) -> None:
    paths = operands(call.words)
    if paths and paths[-1] == "/dev/null":
        call.risk("destructive", "moves files to where nothing is kept")
    for w in paths[:-1]:
        if not unknown(w) and places.vast(w):
            call.risk("destructive", f"moves all of {w} away")
    _renamed(call)


def _renamed(call: Call) -> None:
    """A program of the system under another name."""
    paths = operands(call.words)
    if call.name == "ln" and paths and any(places.root(w) for w in paths[:1]):
        call.risk("evasion", f"a link to {paths[0]}")
    if call.name == "install" and re.search(
        r" (?:-m|--mode=?)\s*(?:0?777|a\+rwx|[246]\d{3})| (?:-o|--owner=?)\s*(?:root|0)\b", " ".join(call.words)
    ):
        call.risk("privilege", "installs with a dangerous mode or owner")
    if len(paths) != 2 or not re.match(r"^/(?:usr/|usr/local/)?s?bin/[\w.+-]+$", paths[0]):
        return
    old, new = base(paths[0]), base(paths[1])
    if not unknown(paths[1]):
        call.walk.renamed[paths[1].removeprefix("./")] = paths[0]
    if new in ("", ".", "..") or unknown(new) or paths[1].endswith("/"):
        return
    stem = re.sub(r"[\d.]+$", "", new)
    if not old.startswith(stem) and not new.startswith(old) and paths[1].count(".") < 2 and old not in new:
        call.risk("evasion", f"{old} gets the name {new}")


def _chmod(call: Call) -> None:
    for w in operands(call.words)[:1]:
        if re.fullmatch(r"0?[2467][0-7]{3}", w) or re.search(r"(?:^|,)[ugoa]*[+=][rwxXt]*s", w):
            call.risk("privilege", f"mode {w} runs a program as its owner")
        elif mode(w, "777") or re.fullmatch(r"0?[0-7]{2}[2367]", w):
            call.risk("privilege", f"mode {w} lets anybody change it")
    for w in operands(call.words)[1:]:
        if not unknown(w) and places.vast(w, call.scope.cwd) and w not in ("..", "../"):
            call.risk("destructive", f"changes the mode of {w}")


_LISTS = re.compile(
    r"ip6?tables(?: -t \w+| -[nvw]+)*(?: -[a-zA-Z]{0,4}[LS][a-zA-Z]{0,4}| --list(?:-rules)?)"
    r"(?: [A-Z]+| -[nvxw]+| --line-numbers)*$"
)
_OPENS = re.compile(
    r" (?:disable|reset|allow|delete|insert|default|--panic-\w+|--(?:add|remove|set)-\S+|--complete-reload)\b"
)


def _privilege(call: Call) -> None:
    words = call.words
    if words[1:] in (["--help"], ["--version"]):
        return
    if call.name in ("iptables", "ip6tables") and _LISTS.match(" ".join(words)):
        return
    if call.name in ("ufw", "firewall-cmd") and not _OPENS.search(" ".join(words)):
        return
    if call.name in ("mount", "iptables", "ip6tables", "nft", "sysctl", "passwd", "umount") and (
        len(words) == 1 or (len(words) == 2 and words[1] in ("-l", "-L", "-a", "--version", "-S", "-V", "-h", "--help"))
    ):
        return
    if call.name == "sysctl" and not any("=" in w or w in ("-w", "-p") for w in words):
        return
    if call.name == "nft" and operands(words)[:1] == ["list"] and not any(w[:1] == "-" for w in words):
        return
    if call.name in ("chown", "chgrp") and admin.own(call):
        return
    call.risk("privilege", f"{call.name} changes who may do what")
    if call.name in ("iptables", "ip6tables", "nft") and any(w in ("-F", "--flush", "flush") for w in words):
        call.risk("destructive", "drops all rules of the packet filter")
    if call.name in ("chown", "chgrp") and any(
        places.vast(w, call.scope.cwd) for w in operands(words)[1:] if not unknown(w)
    ):
        call.risk("destructive", "changes the owner of what is very much")


def _made(call: Call) -> None:
    if re.search(r" (?:-m|--mode)[ =]?(?:0?777|a\+rwx)\b", " ".join(call.words)):
        call.risk("privilege", "makes what anybody may change")


def _kill(call: Call) -> None:
    if "-1" in call.words[2:] or ("--" in call.words and "-1" in call.words):
        call.risk("destructive", "ends every process that it can")


def _device(call: Call) -> None:
    words = call.words
    if call.name in ("fdisk", "sfdisk", "parted", "nvme", "hdparm", "zpool", "dmsetup", "cryptsetup", "mdadm") and any(
        w in ("-l", "--list", "list", "print", "status", "info", "-V", "--version", "smart-log", "-I", "--detail", "-D")
        for w in words
    ):
        return
    if call.name in ("wipefs", "sfdisk") and words[1:2] in (["--no-act"], ["-n"]):
        return
    if len(words) > 1:
        call.risk("destructive", f"{call.name} works on devices")


def _npm(call: Call) -> None:
    if "get" in call.words[1:3] and any("authToken" in w for w in call.words):
        call.risk("secrets", "prints the token of a registry")
    if "unpublish" in call.words[1:3]:
        call.risk("destructive", "takes a package away from everybody who uses it")
    if {"script-shell", "git", "node-options"} & set(call.words[3:4]) and call.words[1:3] == ["config", "set"]:
        call.risk("persistence", "npm runs another program from now on")
    admin.installs(call)


def _history(call: Call) -> None:
    if {"-c", "-d", "-w"} & set(call.words):
        call.risk("evasion", "clears the history of commands")


def _set(call: Call) -> None:
    if "+o" in call.words and "history" in call.words:
        call.risk("evasion", "turns the history of commands off")


def _unset(call: Call) -> None:
    if {"HISTFILE", "HISTSIZE", "HISTCONTROL"} & set(call.words):
        call.risk("evasion", "turns the history of commands off")


_SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSW|API_?KEY|PRIVATE|CREDENTIAL", re.IGNORECASE)


def _printenv(call: Call) -> None:
    if any(_SECRET_NAME.search(w) for w in call.words[1:]):
        call.risk("secrets", "prints a secret of the environment")


def _user(call: Call) -> None:
    call.risk("destructive", f"{call.name} deletes an account")
    call.risk("privilege", f"{call.name} changes who may do what")


def _find(call: Call) -> None:
    if any(w in ("-perm",) for w in call.words) and any(
        re.fullmatch(r"[-/+]?(?:0?[46]000|u\+s|u=s|g=s)", w) for w in call.words
    ):
        call.risk("scanning", "looks for programs that run as their owner")
    for option, w in pairwise(call.words):
        if option in ("-name", "-iname", "-path", "-ipath", "-wholename") and _KEY_FILE.fullmatch(base(w)):
            call.risk("secrets", f"looks for {w}")


def _locate(call: Call) -> None:
    for w in call.words[1:]:
        if _KEY_FILE.fullmatch(base(w)):
            call.risk("secrets", f"looks for {w}")


def _search(call: Call) -> None:
    words = operands(call.words)
    # In the workspace it is where a setting is read, or a look for what should not be checked in.
    outside = bool(call.scope.cwd or call.stdin is not f.EMPTY) or any(
        w[:1] in "/~" or w[:2] == ".." or ".env" in w or unknown(w) for w in words[1:] if w
    )
    if outside and any(_KEY_TEXT.search(w) for w in call.words[1:]):
        call.risk("secrets", "looks for keys in files")
    if (
        f.ENVIRON in call.stdin.traits
        and "-v" not in call.words
        and any(_SECRET_NAME.search(w) for w in call.words[1:])
    ):
        call.risk("secrets", "looks for secrets of the environment")


def _getent(call: Call) -> None:
    if {"shadow", "gshadow"} & set(call.words[1:]):
        call.risk("secrets", "reads the hashes of passwords")


def _named(kind: str, said: str) -> Callable[[Call], None]:
    def found(call: Call) -> None:
        call.risk(kind, f"{call.name} {said}")

    return found


_BY_NAME: dict[str, Callable[[Call], None]] = {
    **dict.fromkeys(_MINERS, _named("mining", "computes for a currency")),
    **dict.fromkeys(_SCANNERS, _named("scanning", "looks for hosts, ports or ways in")),
    **dict.fromkeys(_PRIVILEGE, _privilege),
    **dict.fromkeys(_ENDS, _named("destructive", "ends the machine")),
    **dict.fromkeys(_DEVICES, _device),
    **dict.fromkeys(("userdel", "deluser", "groupdel"), _user),
    **services.BY_NAME,
    **admin.BY_NAME,
    **dict.fromkeys(("locate", "mlocate", "plocate", "fd", "fdfind"), _locate),
    **dict.fromkeys(("grep", "egrep", "fgrep", "rg", "ag", "ack"), _search),
    "getent": _getent,
    **dict.fromkeys(("shred", "truncate", "wipe", "srm"), _over),
    **dict.fromkeys(("cp", "ln", "install"), _renamed),
    "rm": _rm, "rmdir": _rm, "unlink": _rm, "dd": _dd, "mv": _mv, "chmod": _chmod, "kill": _kill,
    "mkdir": _made, "mkfs": _named("destructive", "makes a file system anew"),
    "npm": _npm,
    "history": _history, "set": _set,
    "unset": _unset, "printenv": _printenv, "find": _find,
}  # fmt: skip
