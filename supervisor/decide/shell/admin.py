"""Signs of danger in what administers a machine: network, services, packages, databases. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from supervisor.decide.shell import places
from supervisor.decide.shell.marks import unknown
from supervisor.decide.shell.match import spoken, uncommented
from supervisor.decide.shell.options import operands
from supervisor.decide.shell.programs import SQL_CLIENTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.decide.shell.calls import Call

_EMPTIES = re.compile(
    r"\bdrop\s+(?:database|schema|tablespace|keyspace|role|user)\b|\btruncate\s+(?:table\s+)?[\w.\"`\[]",
    re.IGNORECASE,
)
# Every row of a table, on a server: what sqlite3 works on is a file, as a rule the workspace's own.
_EMPTIES_TABLE = re.compile(r"\bdelete\s+from\s+[\w.\"`\[\]]+\s*(?:;|$)", re.IGNORECASE)
_EMPTIES_MONGO = re.compile(
    r"\bdropDatabase\s*\(|\.drop\s*\(\s*\)|\.(?:deleteMany|remove)\s*\(\s*(?:\{\s*\}\s*)?\)|\bdropAllUsers"
)
_FAILING = frozenset(("stop", "disable", "mask"))
_NETWORK = {
    "ip": re.compile(
        r"(?:link|l) set |(?:l|link|r|route|ru|rule|a|addr|address|n|neigh|tunnel) (?:add|change|replace|fl|del)"
    ),
    "route": re.compile(r"(?:add|del|delete|flush)\b"),
    "ifconfig": re.compile(r"\S+ (?:down|up|-?promisc|hw|netmask|[\d.]+)\b"),
    "nmcli": re.compile(r"(?:con\w*|dev\w*|net\w*|radio) \S* ?(?:down|delete|modify|disconnect|off)\b"),
}  # fmt: skip
_PLAIN_HTTP = re.compile(r"^(?:--[\w-]+=)?http://(?!localhost\b|127\.|\[::1\])")

_ARCHIVE = re.compile(r"https?://\S+\.(?:whl|tgz|tar\.\w+|zip|gem|deb|rpm)(?:[#?]|$)")


def _database(call: Call) -> None:
    for text in map(spoken, map(uncommented, (*call.words[1:], call.stdin.text or ""))):
        if _EMPTIES.search(text) or (call.name not in ("sqlite3", "sqlite") and _EMPTIES_TABLE.search(text)):
            call.risk("destructive", f"{call.name} is told to empty or drop what it keeps")
            return


def _mongo(call: Call) -> None:
    if any(_EMPTIES_MONGO.search(text) for text in (*call.words[1:], call.stdin.text or "")):
        call.risk("destructive", f"{call.name} is told to empty or drop what it keeps")


def _drops(call: Call) -> None:
    names = operands(call.words)
    if call.name == "mysqladmin" and "drop" not in names:
        return
    if names and not re.search(r"test|tmp|temp|dev|scratch", names[-1]):
        call.risk("destructive", f"{call.name} drops the database {names[-1]}")


def _network(call: Call) -> None:
    words = operands(call.words)
    if _NETWORK[call.name].match(" ".join(words)):
        call.risk("privilege", f"{call.name} changes the network of the machine")


def _service(call: Call) -> None:
    if _FAILING & set(call.words[2:]):
        call.risk("destructive", f"service {' '.join(call.words[1:3])} ends a service")


def _systemctl(call: Call) -> None:
    words = operands(call.words)
    act = words[0] if words else ""
    if act in ("enable", "link", "edit", "set-default", "preset", "import-environment", "reenable", "add-wants"):
        call.risk("persistence", f"systemctl {act} makes something start later")
    elif act in ("disable", "mask", "stop", "kill", "isolate") and "--user" not in call.words:
        call.risk("destructive", f"systemctl {act} ends services")
    elif act in ("poweroff", "reboot", "halt", "suspend", "rescue", "emergency"):
        call.risk("destructive", f"systemctl {act} ends the machine")


def _crontab(call: Call) -> None:
    if "-r" in call.words:
        call.risk("destructive", "deletes all jobs of crontab")
    elif "-l" not in call.words:
        call.risk("persistence", "plants jobs that run later")


def _later(call: Call) -> None:
    if call.name not in ("at", "batch") or not {"-l", "-V", "-c"} & set(call.words):
        call.risk("persistence", f"{call.name} makes something run later")


def _linger(call: Call) -> None:
    if "enable-linger" in call.words:
        call.risk("persistence", "keeps programs of a user running without them")


def _ends_all(call: Call) -> None:
    if call.name == "killall5" or any(re.match(r"-[uU]|--e?uid|--user", w) for w in call.words[1:]):
        call.risk("destructive", "ends every process of a user")
    elif call.name == "pkill" and {".", ".*", ""} & {*call.words[1:]}:
        call.risk("destructive", "ends every process that it can")


def _swap(call: Call) -> None:
    call.risk("privilege", f"{call.name} changes the memory of the machine")


_REMOVES = {
    **dict.fromkeys(("apt", "apt-get", "aptitude"), re.compile(r"remove|purge|autoremove|autopurge")),
    **dict.fromkeys(("dnf", "yum", "zypper"), re.compile(r"remove|erase|autoremove|rm")),
    "dpkg": re.compile(r"-[a-zA-Z]*[rP][a-zA-Z]*|--remove|--purge"),
    "rpm": re.compile(r"-e[a-z]*|--erase"),
    "pacman": re.compile(r"-R\w*|--remove"),
    "apk": re.compile(r"del"),
    "snap": re.compile(r"remove"),
}  # fmt: skip


def _packages(call: Call) -> None:
    act = next((w for w in call.words[1:] if _REMOVES[call.name].fullmatch(w)), None)
    if act is not None and not {"-s", "--dry-run", "--simulate"} & {*call.words}:
        call.risk("destructive", f"{call.name} {act} takes programs of the system away")
    installs(call)


def _journal(call: Call) -> None:
    if any(w.startswith("--vacuum-") for w in call.words):
        call.risk("evasion", "deletes the log of the system")


def installs(call: Call) -> None:
    """Packages from nowhere in particular: over plain HTTP, or of a file that came over the network before."""
    words = call.words
    if call.name in ("dpkg", "rpm"):
        if not any(re.fullmatch(r"-[a-zA-Z]*[iU][a-zA-Z]*|--install|--upgrade|--unpack", w) for w in words[1:]):
            return
    elif not {"install", "add", "i", "reinstall"} & set(words[1:4]):
        return
    for w in words[1:]:
        if _PLAIN_HTTP.match(w) or _ARCHIVE.match(w) or (call.name == "rpm" and "://" in w):
            call.risk("remote_code", f"{call.name} installs {w}")
        elif w.removeprefix("./") in call.walk.downloaded:
            call.risk("remote_code", f"{call.name} installs {w}, which came over the network")


_OF_SYSTEM = re.compile(r"/(?:bin|boot|dev|etc|lib\w*|opt|proc|root|run|sbin|sys|usr|var)(?:/|$)")


def own(call: Call) -> bool:
    """Whether chown(1) is about files of a workspace, and not for root: the kernel knows whether it may be."""
    names = operands(call.words)
    if len(names) < 2 or any(map(unknown, names)) or any(w.startswith("--ref") for w in call.words):
        return False
    if any(re.fullmatch(r"root|\+?0+", part) for part in re.split(r"[:.]", names[0])):
        return False
    return not any(
        places.vast(w, call.scope.cwd) or _OF_SYSTEM.match(places.normal(w, call.scope.cwd)) for w in names[1:]
    )


def _powershell(call: Call) -> None:
    if any(re.fullmatch(r"(?i)-e(?:c|nc\w*)?", w) for w in call.words[1:]):
        call.risk("evasion", f"{call.name} runs text that was decoded before")


BY_NAME: dict[str, Callable[[Call], None]] = {
    **dict.fromkeys(SQL_CLIENTS, _database),
    **dict.fromkeys(("mongo", "mongosh"), _mongo),
    **dict.fromkeys(("dropdb", "mysqladmin"), _drops),
    **dict.fromkeys(_NETWORK, _network),
    **dict.fromkeys(("service", "rc-service", "invoke-rc.d"), _service),
    **dict.fromkeys(("killall5", "pkill", "killall"), _ends_all),
    **dict.fromkeys(("swapoff", "swapon"), _swap),
    **dict.fromkeys(("pip", "pip3", "pipx", "uv", "yarn", "pnpm", "gem"), installs),
    **dict.fromkeys(_REMOVES, _packages),
    "journalctl": _journal,
    "systemctl": _systemctl,
    "loginctl": _linger,
    "crontab": _crontab,
    **dict.fromkeys(("update-rc.d", "chkconfig", "systemd-run", "at", "batch", "atd", "anacron", "launchctl"), _later),
    **dict.fromkeys(("pwsh", "powershell", "powershell.exe", "pwsh.exe"), _powershell),
}
