"""What well-known programs are, and how their options read. Tables; pure.

Options with a value are given as in getopt(3): short letters in one string, long names in a set. Only what changes
where the first operand stands has to be known.
"""

from __future__ import annotations

import re
from typing import NamedTuple

SHELLS = frozenset(
    ["sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "ksh93", "lksh", "pdksh", "yash", "posh", "rbash", "rzsh",
     "fish", "csh", "tcsh", "pwsh", "elvish", "nu", "xonsh", "osh", "oksh", "hush"]
)  # fmt: skip
_RUNTIMES = [
    "python", "pypy", "perl", "ruby", "node", "nodejs", "deno", "bun", "php", "lua", "luajit", "tclsh", "wish",
    "expect",
    "awk", "gawk", "mawk", "nawk", "osascript", "julia", "R", "Rscript", "ipython", "jruby", "irb", "guile", "sbcl",
    "emacs", "vim", "vi", "nvim", "ed", "ex", "gdb", "java", "dotnet", "groovy", "scala", "jshell", "erl", "elixir",
    "iex", "ghci", "runghc", "ocaml", "qjs", "tsx", "ts-node", "m4", "sqlite3", "psysh",
]  # fmt: skip
_VERSIONED = frozenset(["gcc", "g++", "clang", "clang++", "pip", "make", "cmake", "cargo", "go", "wget"])
INTERPRETERS = SHELLS | frozenset(_RUNTIMES)
_VERSION = re.compile(r"-?[0-9][0-9.]*$")


class Start(NamedTuple):
    """How a program that starts another reads its own arguments."""

    short: str = ""  # letters of options with a value
    long: frozenset[str] = frozenset()
    operands: int = 0  # of its own, before the command
    assigns: bool = False  # NAME=VALUE may stand before the command
    dashes: bool = False  # `--` stands right before the command


def _start(short: str = "", long: str = "", operands: int = 0, assigns: bool = False, dashes: bool = False) -> Start:
    return Start(short, frozenset(long.split()), operands, assigns, dashes)


# Programs whose arguments are, after options and operands of their own, a command and its arguments.
STARTERS: dict[str, Start] = {
    "nice": _start("n", "adjustment"),
    "nohup": _start(),
    "timeout": _start("ks", "kill-after signal", 1),
    "time": _start("fo", "format output"),
    "stdbuf": _start("ioe", "input output error"),
    "setsid": _start(),
    "ionice": _start("cnpPu", "class classdata pid pgid uid"),
    "chroot": _start("", "groups userspec", 1),
    "unshare": _start("SGRwl", "setuid setgid root wd map-user map-group map-users map-groups propagation"),
    "nsenter": _start("tSG", "target setuid setgid"),
    "sudo": _start("CDghpRrtTuU", "close-from chdir group host prompt chroot role type user command-timeout",
                   assigns=True),
    "doas": _start("Cu", assigns=True),
    "pkexec": _start("", "user"),
    "busybox": _start(),
    "toybox": _start(),
    "command": _start(),
    "builtin": _start(),
    "exec": _start("a"),
    "strace": _start("abeEIoOpPsSuUX", "attach output trace user signal string-limit env"),
    "ltrace": _start("aAeDFlnopsuxX", "output library"),
    "taskset": _start("", "", 1),
    "chrt": _start("TPD", "", 1),
    "numactl": _start("iNmCpl", "interleave cpunodebind membind physcpubind preferred"),
    "prlimit": _start(),
    "setarch": _start("", "", 1),
    "linux32": _start(),
    "linux64": _start(),
    "catchsegv": _start(),
    "fakeroot": _start("lisb", "lib faked"),
    "proot": _start("rbwq", "rootfs bind cwd"),
    "firejail": _start(),
    "bwrap": _start("", "chdir uid gid hostname args"),
    "dbus-run-session": _start("", "config-file"),
    "dbus-launch": _start(),
    "xvfb-run": _start("ensfpw", "auth-file error-file server-num server-args"),
    "unbuffer": _start(),
    "rlwrap": _start("cfHPqsS"),
    "cpulimit": _start("lpeP", "limit pid exe path"),
    "systemd-run": _start("EpuMH", "unit property description slice uid gid nice setenv working-directory machine "
                          "host on-active on-calendar on-boot on-startup timer-property service-type"),
    "systemd-inhibit": _start("", "what who why mode"),
    "valgrind": _start(),
    "logsave": _start("", "", 1),
    "entr": _start(),
    "ltrace64": _start(),
    "direnv": _start("", "", 2),  # direnv exec DIR CMD
    "chronic": _start(),
    "ifne": _start(),
    "setpriv": _start("", "reuid regid groups inh-caps ambient-caps bounding-set securebits pdeathsig ruid euid"),
    "s6-setuidgid": _start("", "", 1),
    "run0": _start("ugD", "user group chdir unit property setenv"),
    "gosu": _start("", "", 1),
    "su-exec": _start("", "", 1),
    "setuidgid": _start("", "", 1),
    "tini": _start("pe"),
    "dumb-init": _start("r"),
    "torsocks": _start("uipa"),
    "proxychains": _start("f"),
    "proxychains4": _start("f"),
    "ccache": _start(),
    "distcc": _start(),
    "eatmydata": _start(),
    "caffeinate": _start("tw"),
    "winpty": _start(),
    "aoss": _start(),
    "padsp": _start(),
    "wine": _start(),
    "not": _start(),
    "coproc": _start(),
    "noglob": _start(),  # zsh
    "nocorrect": _start(),
    "repeat": _start("", "", 1),
    "cross-env": _start(assigns=True),
    "env-cmd": _start("fr", "file rc-file"),
    "dotenv": _start("ecvp", dashes=True),
    "watchexec": _start("ewirdsf", "exts watch ignore restart delay signal filter shell stop-timeout"),
    "nodemon": _start("ewx", "exec ext watch ignore delay signal"),
    "onchange": _start("d", "delay", dashes=True),
    "sshpass": _start("pfde"),
}  # fmt: skip
# PROGRAM SUBCOMMAND [options] CMD ARGS
RUNNERS: dict[str, tuple[frozenset[str], str]] = {
    "uv": (frozenset(["run"]), "pw"),
    "pipx": (frozenset(["run"]), ""),
    "lerna": (frozenset(["exec"]), ""),
    "nx": (frozenset(["exec"]), ""),
    "poetry": (frozenset(["run"]), ""),
    "pipenv": (frozenset(["run"]), ""),
    "pdm": (frozenset(["run"]), ""),
    "hatch": (frozenset(["run"]), ""),
    "rye": (frozenset(["run"]), ""),
    "bundle": (frozenset(["exec"]), ""),
    "conda": (frozenset(["run"]), "np"),
    "mamba": (frozenset(["run"]), "np"),
    "mise": (frozenset(["exec", "x"]), ""),
    "asdf": (frozenset(["exec"]), ""),
    "rustup": (frozenset(["run"]), ""),
    "opam": (frozenset(["exec"]), ""),
    "pnpm": (frozenset(["exec", "dlx"]), ""),
    "yarn": (frozenset(["exec", "dlx"]), ""),
    "npm": (frozenset(["exec", "x"]), ""),
    "perf": (frozenset(["stat", "record", "trace"]), "eoFCpt"),
    "guix": (frozenset(["shell", "environment"]), ""),
    "dotenvx": (frozenset(["run"]), "f"),
    "doppler": (frozenset(["run"]), "pc"),
    "aws-vault": (frozenset(["exec"]), ""),
    "op": (frozenset(["run"]), ""),
}
# Long options with a value, of whichever of them.
RUNNERS_LONG = frozenset(
    ["with", "with-editable", "with-requirements", "python", "extra", "group", "env-file", "index-url", "index",
     "default-index", "project", "directory", "package", "scope", "spec", "from", "cwd", "config", "prefix", "name"]
)  # fmt: skip
# Those that custom code of starters.py reads.
OTHER_STARTERS = frozenset(
    ["env", "xargs", "find", "fd", "su", "runuser", "sg", "flock", "script", "watch", "parallel", "ssh", "git", "make",
     "gmake", "tar", "rsync", "trap", "eval", "source", ".", "awk", "gawk", "mawk", "nawk", "sed", "docker", "podman",
     "nerdctl", "kubectl", "oc", "nix-shell", "nix", "hyperfine", "capsh", "tmux", "screen", "vim", "vi", "nvim", "ex",
     "ip", "gdb", "scp", "sftp", "zip", "at", "batch", "start-stop-daemon", "npx", "bunx", "dash", "alias", "nc",
     "ncat",
     "socat", "man", "less", "busctl", "crontab", "run-parts", "docker-compose", "xterm", "gnome-terminal", "setpriv",
     "split", "sort", "cmake", "ninja", "expect", "ed", "sqlite3", "mysql", "psql", "ftp", "telnet", "openvt", "7z",
     "uvx", "shx", "concurrently", "just", "dc", "compgen", "complete",
     "mapfile", "readarray", "enable", "bind", "hash", "php"]
)  # fmt: skip
WRAPPERS = frozenset(STARTERS) | frozenset(RUNNERS) | OTHER_STARTERS

# What prints settings for the shell that reads them; `eval "$(...)"` of these is how they are meant.
ENVIRONMENT_PRINTERS = frozenset(
    ["ssh-agent", "brew", "pyenv", "rbenv", "nodenv", "goenv", "jenv", "direnv", "opam", "conda", "mamba", "dircolors",
     "minikube", "docker-machine", "starship", "zoxide", "mise", "fnm", "luarocks", "register-python-argcomplete",
     "resize", "keychain", "asdf", "rtx", "podman-machine", "pdm", "fzf", "atuin", "getopt", "thefuck", "lesspipe",
     "dbus-launch", "gpg-agent", "plenv", "rakubrew", "volta", "nvm", "micromamba"]
)  # fmt: skip

DOWNLOADERS = frozenset(
    ["curl", "wget", "wget2", "fetch", "aria2c", "axel", "http", "https", "httpie", "xh", "lynx", "links", "elinks",
     "w3m", "nc", "ncat", "netcat", "socat", "ftp", "tftp", "lwp-request", "GET", "lwp-download", "curlie", "telnet",
     "openssl-client", "dig", "nslookup", "host", "drill", "gsutil"]
)  # fmt: skip
SQL_CLIENTS = frozenset(
    ["psql", "mysql", "mariadb", "sqlite3", "sqlite", "duckdb", "clickhouse-client", "clickhouse", "sqlcmd", "pgcli",
     "mycli", "litecli", "usql", "sqlplus", "isql", "tsql", "cockroach", "cqlsh", "db2", "snowsql", "bq", "trino",
     "presto", "beeline", "hive", "impala-shell", "osql", "mssql-cli", "bteq", "vsql", "spark-sql", "mysqlsh", "rqlite",
     "sql", "athena", "influx", "psql.bin"]
)  # fmt: skip

# Options with a value that may stand before the subcommand; a program is here when it has subcommands.
SUBCOMMANDS: dict[str, frozenset[str]] = {
    name: frozenset(options.split())
    for name, options in {
        "git": "-C -c --git-dir --work-tree --namespace --exec-path --super-prefix --config-env --attr-source",
        "kubectl": "-n --namespace --context --kubeconfig -s --server --cluster --user --token --as --as-group "
        "--request-timeout --certificate-authority -v --cache-dir --tls-server-name",
        "oc": "-n --namespace --context --kubeconfig -s --server --cluster --user --token --as",
        "helm": "-n --namespace --kube-context --kubeconfig --registry-config --repository-config",
        "docker": "-H --host -c --context --config -l --log-level --tlscacert --tlscert --tlskey",
        "podman": "--root --runroot --url --connection -c --log-level --storage-driver",
        "nerdctl": "-n --namespace -a --address",
        "docker-compose": "-f --file -p --project-name --profile --env-file --project-directory --ansi",
        "npm": "--prefix -C -w --workspace --registry --userconfig --loglevel",
        "pnpm": "-C --dir --filter -F",
        "yarn": "--cwd",
        "cargo": "--manifest-path --config -Z --color -C",
        "systemctl": "-H --host -M --machine -t --type -p --property -o --output -n --lines -s --signal --root",
        "apt": "-o -c -t --target-release --option --config-file",
        "apt-get": "-o -c -t --target-release --option --config-file",
        "aws": "--region --profile --output --endpoint-url --query --ca-bundle --cli-read-timeout --color",
        "gcloud": "--project --account --configuration --format --verbosity --impersonate-service-account",
        "az": "--subscription -o --output --query",
        "gh": "-R --repo --hostname",
        "terraform": "",
        "tofu": "",
        "pip": "--log --proxy --timeout --cert --python",
        "pip3": "--log --proxy --timeout --cert --python",
        "go": "-C",
        "brew": "",
        "dnf": "-c --config --installroot --releasever",
        "yum": "-c --config --installroot --releasever",
        "pacman": "",
        "zfs": "",
        "zpool": "",
        "lvm": "",
        "vault": "",
        "doctl": "",
        "fly": "-a --app",
        "heroku": "-a --app",
        "redis-cli": "-h -p -a -n -u --user --pass -s",
        "etcdctl": "--endpoints --cacert --cert --key --user",
        "ip": "-n -netns --netns",
        "svn": "--username --password",
        "hg": "-R --repository --cwd --config",
        "nix": "",
        "crictl": "-r -i",
        "ctr": "-n -a --namespace --address",
    }.items()
}

# Long names of short options, where both mean the same.
_COREUTILS = {"recursive": "R", "verbose": "v", "quiet": "q", "silent": "q", "changes": "c"}
LONG: dict[str, dict[str, str]] = {
    "rm": {"recursive": "r", "force": "f", "dir": "d", "verbose": "v", "interactive": "i", "one-file-system": "",
           "no-preserve-root": "", "preserve-root": ""},
    "cp": {"recursive": "r", "force": "f", "archive": "a", "verbose": "v", "link": "l", "symbolic-link": "s"},
    "mv": {"force": "f", "no-clobber": "n", "verbose": "v"},
    "chmod": {**_COREUTILS, "no-preserve-root": "", "preserve-root": "", "reference": ""},
    "chown": {**_COREUTILS, "no-preserve-root": "", "preserve-root": "", "dereference": "", "reference": ""},
    "chgrp": _COREUTILS,
    "git": {"force": "f", "all": "a", "delete": "d", "message": "m", "verbose": "v", "quiet": "q"},
    "grep": {"recursive": "r", "ignore-case": "i"},
    "curl": {"insecure": "k", "location": "L", "output": "o", "silent": "s", "upload-file": "T"},
    "docker": {"force": "f", "all": "a", "volume": "v"},
    "ln": {"symbolic": "s", "force": "f"},
    "tar": {"extract": "x", "create": "c", "file": "f"},
    "kubectl": {"namespace": "n", "filename": "f", "all-namespaces": "A"},
}  # fmt: skip
SAME_SHORT: dict[str, dict[str, str]] = {"rm": {"R": "r"}, "cp": {"R": "r"}, "grep": {"R": "r"}}
# Programs whose options are words behind a single dash.
SINGLE_DASH = frozenset(
    ["find", "java", "openssl", "terraform", "tofu", "gcc", "g++", "clang", "ffmpeg", "go", "convert"]
)


def base(word: str) -> str:
    """The name of a program, without its directory."""
    return word.rsplit("/", 1)[-1] if "/" in word else word


def family(name: str) -> str:
    """The name without a version where it is one of a known family: python3.11 is python, gcc-12 is gcc."""
    if not name or name[-1] not in "0123456789" or name in INTERPRETERS:
        return name
    if name.startswith("ld-") and ".so." in name:
        return "ld.so"
    stem = _VERSION.sub("", name)
    return stem if stem in INTERPRETERS or stem in _VERSIONED else name


def is_interpreter(name: str) -> bool:
    """Whether a program, by name or path, runs whatever text it is handed: shells and language runtimes."""
    return family(base(name)) in INTERPRETERS
