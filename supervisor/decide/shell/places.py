"""The paths that a command names, and which of them are secrets, start things later, or are very much. Pure."""

from __future__ import annotations

import posixpath
import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from supervisor.decide.shell.marks import UNSET, collapsed, shown, unknown

if TYPE_CHECKING:
    from supervisor.decide.shell.calls import Call
    from supervisor.decide.shell.scope import Scope
    from supervisor.decide.shell.walk import Walk

# Programs whose arguments are text, not paths.
_TEXT = frozenset(
    ["echo", "printf", ":", "true", "false", "expr", "export", "set", "unset", "return", "exit", "alias", "kill",
        "sleep",
     "basename", "dirname", "seq", "read", "let", "trap", "eval", "tr", "shift", "break", "continue",
     "local"]
)  # fmt: skip
_SCRIPT_FIRST = frozenset(
    ["sed", "gsed", "grep", "egrep", "fgrep", "rg", "ag", "ack", "awk", "gawk", "mawk", "nawk", "jq", "yq"]
)
WRITES_ALL = frozenset(
    ["rm", "rmdir", "unlink", "shred", "truncate", "touch", "mkdir", "mkfifo", "mknod", "tee", "chmod", "chown",
        "chgrp",
     "chattr", "setfacl", "mv", "wipe", "srm", "sponge", "mkfs", "fallocate", "trash", "gio"]
)  # fmt: skip
WRITES_LAST = frozenset(["cp", "ln", "install", "rsync", "scp", "link"])
# Programs that show or change what a file is, and not what is in it.
_OUTSIDE_ONLY = frozenset(["stat", "test", "[", "[[", "mkdir", "touch", "realpath"])
# Programs that show or send what is in a file.
READERS = frozenset(
    ["cat", "less", "more", "head", "tail", "bat", "base64", "xxd", "strings", "od", "hexdump", "nl", "tac", "rev",
        "cut",
     "grep", "egrep", "rg", "awk", "sed", "curl", "wget", "nc", "scp", "rsync", "tar", "zip", "openssl", "cp", "dd",
     "vim", "nano", "view", "sort", "uniq", "paste", "fold", "column", "python", "perl", "tee", "mv", "ln"]
)  # fmt: skip

SECRET = re.compile(
    r"""(?:^|/)(?:
        \.ssh(?:/|$)(?!known_hosts|config$|[\w.-]+\.pub$) | \.gnupg(?:/|$) | \.aws(?:/|$) | \.config/gcloud(?:/|$)
      | id_(?:rsa|dsa|ecdsa|ed25519)(?!\.pub|\w)
      | \.netrc$ | \.git-credentials$ | \.docker/config\.json$ | \.dockercfg$ | \.kube/config$ | \.pypirc$ | \.pgpass$
      | \.my\.cnf$ | \.vault-token$ | \.config/gh/hosts\.yml$ | \.azure/ | \.terraform\.d/credentials | \.password-store
      | \.bash_history$ | \.zsh_history$ | \.psql_history$ | \.mysql_history$ | \.python_history$ | wallet\.dat$
      | (?:google-chrome|chromium|BraveSoftware|microsoft-edge|Chrome)/.*Cookies$
      | Login\ Data$ | logins\.json$ | key[34]\.db$ | cookies\.sqlite$ | \.keystore$ | login\.keychain | \.config/op/
      | \.cargo/credentials | \.local/share/keyrings | \.npmrc\.secret | \.step/secrets | \.age/ | \.config/sops/age
    )
    | ^/etc/(?:shadow|gshadow|sudoers|master\.passwd|ssh/ssh_host(?!\S*\.pub$)|ssl/private|krb5\.keytab|security/opasswd
      |wireguard|ipsec\.secrets|kubernetes/admin\.conf)
    | ^/proc/(?:\d+|self|thread-self|\*|\.{3}|[^/]*)/(?:environ|mem|maps|auxv)$
    | ^(?:~|/root|/home/[^/]+)/\.npmrc$ | ^/dev/(?:mem|kmem|port)$ | ^/proc/kcore$
    | ^(?:/var)?/run/secrets(?:/|$) | ^/root/\.|^/var/lib/(?:kubelet|docker)/ | ^/etc/shadow""",
    re.VERBOSE,
)
_SECRET_READ = re.compile(
    r"(?:^|/)(?:\.env(?:\.(?!example|sample|template|dist|test|md)[\w.-]+)?|[\w.-]*(?:private|secret)[\w.-]*\.(?:pem|key)"
    r"|[\w.-]+\.(?:key|p12|pfx|jks|kdbx|ppk)|credentials(?:\.json)?|secrets?\.(?:ya?ml|json|toml|txt|env))$"
)
LATER = re.compile(
    r"""(?:^|/)(?:
        \.bashrc | \.bash_profile | \.bash_login | \.bash_logout | \.profile | \.zshrc | \.zprofile
      | \.zshenv | \.zlogin
      | \.kshrc | \.cshrc | \.tcshrc | \.login | \.xinitrc | \.xprofile | \.xsession | \.pam_environment | \.inputrc
      | \.vimrc | \.exrc | \.gdbinit | \.pythonrc | \.bash_aliases | \.tmux\.conf | \.screenrc | \.envrc | \.forward
      | \.config/(?:fish|autostart|systemd|nvim|environment\.d|git)(?:/.*)? | \.ssh/(?:authorized_keys2? | rc | config)
      | \.git/(?:hooks(?:/.*)?|config) | \.vscode/(?:tasks|settings|launch)\.json | \.gitconfig | sitecustomize\.py
      | usercustomize\.py | \.local/share/systemd/.* | LaunchAgents/.* | \.idea/workspace\.xml
      | \.claude/settings.*\.json
      | [^/]+\.pth | authorized_keys
    )$
    | ^/etc/(?:cron|profile|bash\.bashrc|bashrc|zsh|rc\.local|rc\d?\.d|init|systemd|environment|ld\.so|sudoers|pam
      |update-motd|xdg/autostart|inittab|anacrontab|at\.|modules|modprobe|udev|apt/apt\.conf|hosts$|passwd|shadow|group|ssh)
    | ^/(?:usr/|usr/local/)?(?:lib|share)/systemd/ | ^/var/spool/(?:cron|at) | ^/run/systemd/""",
    re.VERBOSE,
)
DEVICE = re.compile(r"^/dev/(?:sd|hd|vd|xvd|nvme|mmcblk|md|dm-|mapper/|disk/|loop|sr|ram|mem|kmem|port|mtd|nbd|zvol)")
_SYSTEM = re.compile(
    r"^/(?:bin|boot|dev|etc|home|lib|lib32|lib64|media|mnt|opt|proc|root|run|sbin|srv|sys|usr|var)"
    r"(?:/(?:bin|sbin|lib|lib64|local|share|log|cache|spool|mail|www))?$"
)
_ROOT_GLOB = re.compile(r"^/[^/]*[*?\[]")
_LOGS = re.compile(
    r"^/var/log/(?:(?:auth|kern|daemon|user|mail|cron|fail2ban|dpkg|audit)\.log|syslog|messages|secure|wtmp|btmp|lastlog"
    r"|faillog|audit/|journal/|stockade/)"
)
_HOOK = re.compile(r"/hooks/(?:pre|post|commit|update|applypatch|prepare)[\w-]*$")
_PATH = re.compile(r"[\s\"'`;|&<>(){}$\\,]|://")
_HARMLESS = re.compile(r"^/dev/(?:null|stdin|stdout|stderr|tty|zero|u?random|full|fd/.*|shm(?:/.*)?)$")


def normal(path: str, cwd: str = "") -> str:
    """The path without `.`, `..`, doubled slashes and a `*` at its end; below the directory, where that is known."""
    if cwd and path[:1] not in ("/", "~"):
        path = f"{cwd}/{path}"
    if path.startswith("/proc/"):
        path = re.sub(r"^/proc/(?:self|thread-self|\d+)/(?:root|cwd)(?=/|$)", "", path) or "/"
    while path.endswith(("/*", "/.*", "/.[!.]*", "/{*,.*}")):
        path = path[: path.rindex("/")] or "/"
    if path.startswith("/"):
        return "/" + posixpath.normpath(path).lstrip("/")
    return posixpath.normpath(path) if path else ""


def root(path: str, cwd: str = "") -> bool:
    """Whether a path is the root of the file system or a pattern over all that is in it."""
    return _root(normal(path, cwd))


def _root(found: str) -> bool:
    return found == "/" or (found.startswith("/") and _ROOT_GLOB.match(found) is not None and found.count("/") == 1)


_VAST = re.compile(r"~[-+]?|(?:\.\./)*\.\.(?:/[*?]+)?|~[a-z_][\w-]*|/home/[^/]+|/root(?:/\*)?")


def vast(path: str, cwd: str = "") -> bool:
    """Whether deleting all of a path is a disaster: the root, a home, a directory of the system, what is above."""
    found = normal(path, cwd)
    if found[:1] not in ("/", "~", "."):  # it lies below, as most do
        return False
    return _root(found) or _VAST.fullmatch(found) is not None or _SYSTEM.match(found) is not None


_ALL_HERE = re.compile(r"(?:\./)*(?:\.?\*|\.\[[^\]/]+\]\*|\.\?\?\*)")


def here(path: str, scope: Scope) -> bool:
    """Whether a path is all of the directory that the command started in, which is as a rule the whole workspace."""
    return not scope.cwd and not scope.below and (normal(path) == "." or _ALL_HERE.fullmatch(path) is not None)


def below(path: str, scope: Scope) -> str:
    """A path as it is from where the command started."""
    bare = path.removeprefix("./")
    if bare[:1] in ("/", "~", "") or scope.cwd:
        return normal(bare, scope.cwd)
    return posixpath.normpath(f"{scope.below}/{bare}") if scope.below else bare


def vast_if_empty(word: str, cwd: str = "") -> bool:
    """Whether a word is a disaster to delete once the variables that nobody set turn out empty."""
    if UNSET not in word:
        return False
    loose = collapsed(word)
    return not unknown(loose) and loose != "" and vast(loose, cwd)


# What a pattern for names of files may stand for.
_SECRET_FILES = [
    path.split("/")
    for path in (
        "/etc/shadow", "/etc/gshadow", "/etc/sudoers", "~/.ssh/id_rsa", "~/.ssh/id_ed25519", "~/.ssh/id_ecdsa",
        "~/.aws/credentials", "~/.netrc", "~/.gnupg/secring.gpg", "~/.git-credentials", "~/.kube/config",
        "~/.docker/config.json", "/root/.ssh/id_rsa", "/home/agent/.ssh/id_rsa", "/home/agent/.aws/credentials",
        "/proc/self/environ", "/proc/1/environ",
    )
]  # fmt: skip


def _may_be_secret(path: str) -> bool:
    """Whether a pattern names one of the best known files of secrets; a dot at the beginning has to be written out."""
    if not any(c in path for c in "*?["):
        return False
    parts = path.split("/")
    return any(
        len(one) == len(parts)
        and all(
            fnmatchcase(name, part) and (name[:1] != "." or part[:1] == ".")
            for name, part in zip(one, parts, strict=True)
        )
        for one in _SECRET_FILES
    )


def look(call: Call) -> None:
    """Notes every path among the words of a command."""
    words = call.words
    if call.name in _TEXT or len(words) < 2:
        return
    name = call.name
    all_write = name in WRITES_ALL or (name == "sed" and any(w.startswith(("-i", "--in-place")) for w in words))
    last = len(words) - 1 if name in WRITES_LAST else -1
    skip = name in _SCRIPT_FIRST and not any(w in ("-e", "-f", "--regexp", "--expression") for w in words)
    for i in range(1, len(words)):
        w = words[i]
        if skip and w[:1] != "-":
            skip = False
            continue
        if name in ("tar", "rsync", "grep", "du") and (w.startswith("--exclude=") or words[i - 1] == "--exclude"):
            continue
        path, writes = _named(name, w, words[i - 1])
        if path:
            note(call, path, writes=writes or all_write or i == last)
        elif (
            call.scope.cwd
            and w[:1] not in ("-", "+")
            and (all_write or i == last or name in READERS)
            and not _PATH.search(w)
        ):
            opened(call.walk, normal(w, call.scope.cwd), call.scope, call.span, writes=all_write or i == last)
        elif (
            name in READERS
            and _SECRET_READ.search(w)
            and w[:1] != "-"
            and "://" not in w
            and words[i - 1] not in _WRITES_NEXT
        ):
            call.risk("secrets", f"{w} holds secrets")


# Options behind which a file stands that is written.
_WRITES_NEXT = frozenset(
    ["-o", "-O", "-P", "--directory-prefix", "--output", "--output-document", "-outfile", "--out", "-out", "--outfile",
     "-keyout"]
)  # fmt: skip


def _named(name: str, word: str, before: str) -> tuple[str, bool]:
    """The path in a word, "" when there is none; and whether the word says that it is written."""
    writes = before in _WRITES_NEXT
    if word[:1] == "-":
        if "/" not in word and "~" not in word:
            return "", False
        _, _, value = word.partition("=")
        if not value:
            # -I/usr/include, -o/etc/passwd: an option of one letter with its value behind it
            value = word[2:] if word[1:2] != "-" and word[2:3] in ("/", "~") else ""
        writes = word.startswith(("-o", "--output", "--out"))
        word = value
    elif name == "dd" and word.startswith(("if=", "of=")):
        return word[3:], word[0] == "o"
    elif "=" in word and word.split("=")[1][:1] in ("/", "~") and word.split("=")[0].replace("-", "_").isidentifier():
        word = word.split("=", 1)[1]
    word = word.removeprefix("@").removeprefix("file://")
    if "=@" in word:
        word = word.split("=@", 1)[1]
    head = word[:1]
    if head == "/" or (head == "~" and (word[1:2] in ("", "/") or word[1:2].isalpha())):
        if "\n" in word or len(word) > 4096 or (word.startswith("//") and "://" in before):
            return "", False
        return (word.split(":")[0] if ":" in word else word), writes
    if ("/" in word or head == ".") and not _PATH.search(word) and ":" not in word and "@" not in word:
        return word, writes
    return "", False


def note(call: Call, path: str, *, writes: bool) -> None:
    shuts = call.name == "chmod" and any(re.fullmatch(r"0?[0-7]00|go=|go-rwx", w) for w in call.words[1:2])
    reader = None if shuts or call.name in _OUTSIDE_ONLY else call.name in READERS
    opened(call.walk, path, call.scope, call.span, writes=writes, reader=reader)


def run_later(path: str) -> bool:
    """Whether a file is run, read or obeyed by something else later."""
    return LATER.search(path) is not None or _HOOK.search(path) is not None


def secret_file(path: str) -> bool:
    """Whether a file holds secrets by its name, wherever it lies."""
    return SECRET.search(path) is not None or _SECRET_READ.search(path) is not None


def opened(
    walk: Walk, path: str, scope: Scope, span: tuple[int, int], *, writes: bool, reader: bool | None = True
) -> None:
    """Notes one path, and what is dangerous about naming it. `reader` is None for what never looks into a file."""
    if path.startswith(("/dev/tcp/", "/dev/udp/")):
        walk.risk("exfiltration", f"{shown(path)} is a connection to the network", span)
        walk.connected = True
        if unknown(path.rsplit("/", 1)[-1]):
            walk.risk("scanning", "tries one port after the other", span)
        return
    if unknown(path):
        # What is behind an unknown part still tells: $HOME2/.ssh/id_rsa
        tail = re.split("[\ufdd0-\ufdd2]", path)[-1]
        of_process = path.startswith("/proc/") and SECRET.search(shown(path).replace("…", "0"))
        if of_process or (tail and SECRET.search(tail)):
            walk.risk("secrets", f"a path that ends in {tail}", span)
        if tail and writes and (LATER.search(tail) or _HOOK.search(tail)):
            walk.risk("persistence", f"a path that ends in {tail} runs later", span)
        return
    if _HARMLESS.match(path):
        return
    full = normal(path, scope.cwd)
    walk.path(path, span, writes=writes)
    if reader is not None and (
        SECRET.search(full) or _may_be_secret(full) or (reader and not writes and _SECRET_READ.search(full))
    ):
        walk.risk("secrets", f"{path} holds secrets", span)
    if path.endswith(("/docker.sock", "/podman.sock", "/containerd.sock")):
        walk.risk("privilege", f"{path} gives the rights of the host", span)
    if not writes:
        return
    if LATER.search(full):
        walk.risk("persistence", f"{path} is run or obeyed later", span)
    if _LOGS.match(full):
        walk.risk("evasion", f"{path} is a log of the system", span)
    if DEVICE.match(full):
        walk.risk("destructive", f"{path} is a device", span)
    elif re.match(r"^/(?:etc|boot|usr|bin|sbin|lib|sys|proc)(?:32|64)?(?:/|$)", full):
        walk.risk("destructive", f"{path} belongs to the system", span)
