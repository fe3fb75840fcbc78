"""Signs of danger in what talks to other hosts, clouds, containers and repositories. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from supervisor.decide.shell import flow as f
from supervisor.decide.shell import places
from supervisor.decide.shell.marks import ANY, SUBST, unknown
from supervisor.decide.shell.options import operands, option, subcommand
from supervisor.decide.shell.programs import SUBCOMMANDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.decide.shell.calls import Call


# The service that tells a machine of a cloud who it is: by address, also as one number, or by what is asked of it.
_METADATA = re.compile(
    r"(?:^|//)(?:169\.254\.169\.254|metadata\.google|0xa9fea9fe|2852039166|0?0251\.0?0376|\[fd00:ec2::254\])"
    r"|://[^/]+/(?:latest/(?:meta-data|user-data|api/token|dynamic)|computeMetadata/v1|metadata/(?:instance|identity))",
    re.IGNORECASE,
)


def addresses(call: Call, word: str) -> None:
    if re.search(r"stratum\d?\+?(?:tcp|ssl|tls)?://", word):
        call.risk("mining", "a mining pool")
    if _METADATA.search(word):
        call.risk("secrets", "the address where a cloud hands out credentials")


def _acts(call: Call) -> list[str]:
    """Subcommands and operands, without the options that stand before them and their values."""
    return operands(call.words[subcommand(call.words, SUBCOMMANDS.get(call.name, frozenset())) - 1 :])


def _shows(word: str, value: str) -> bool:
    """Whether an option of kubectl asks for more than names: any form of output but these two."""
    asks = re.match(r"-[a-zA-Z]*o|--out|--temp", word) is not None
    return asks and not (word in ("-o", "--output") and value in ("wide", "name"))


def _secret_printer(call: Call) -> None:
    if "--help" in call.words:
        return
    text = " ".join([call.name, *_acts(call)])
    if call.name in ("kubectl", "oc") and any(map(_shows, call.words[1:], [*call.words[2:], ""])):
        text += " -o"
    if re.match(
        r"gh auth token|gcloud auth (?:\S+ )?print-|aws (?:configure (?:get|export)|sts get-session|secretsmanager get"
        r"|ssm get-p)"
        r"|az account get-access|vault (?:read|kv get)|pass (?:show|[^ ]+/)|op (?:read|item get)|bw get"
        r"|security (?:find-|dump-)"
        r"|(?:kubectl|oc) describe secrets?|(?:kubectl|oc) get secrets?\b.* -o"
        r"|heroku config|secret-tool lookup|doppler secrets"
        r"|kubectl config view",
        text,
    ) and not (call.name == "kubectl" and "config view" in text and "--raw" not in call.words):
        call.risk("secrets", f"{' '.join(text.split()[:3])} prints secrets")
    if re.match(r"aws s3 (?:cp|sync|mv) (?!s3://)\S+ s3://|(?:gcloud storage|az storage blob) (?:cp|upload)\b", text):
        call.risk("exfiltration", f"{' '.join(text.split()[:3])} sends files to a cloud")
    _cloud(call, text)


def _cloud(call: Call, text: str) -> None:
    if re.match(
        r"aws s3 (?:rb|rm .*)|aws \S+ (?:delete|terminate)-|(?:gcloud|az) (?:.* )?delete(?:-\w+)?(?: |$)|gh repo delete"
        r"|gh api (?=.*\bDELETE\b)\S*|gh api (?=.*refs/heads)(?=.*\bforce=true\b)"
        r"|kubectl drain"
        r"|helm (?:\S+ )?(?:uninstall|delete|del|un)\b"
        r"|heroku (?:apps|pg):(?:destroy|reset)|(?:kubectl|oc) delete (?:ns|namespace|all|pv|crd)",
        text,
    ) and (not text.startswith("aws s3 rm") or "--recursive" in call.words):
        call.risk("destructive", f"{' '.join(text.split()[:4])} deletes what is not here")


def _gpg(call: Call) -> None:
    if any(w.startswith(("--export-secret", "--export-ownertrust")) for w in call.words):
        call.risk("secrets", "writes out secret keys")


_HOST = re.compile(
    r"--privileged|--cap-add[= ](?:ALL|SYS_)|--pid[= ]host|--userns[= ]host|--security-opt[= ]\S*unconfined"
    r"|docker\.sock|(?:-v|--volume)[= ]?/(?:etc|root|var|home|proc|sys|dev|boot)?/?:|source=/,"
    r"|--device[= ]/dev/(?:sd|mem|nvme)"
)


# What containers keep. Taking containers down is no loss, taking their volumes is.
_DATA = re.compile(
    r"system prune.*(?:-a|--all|--volumes)|volume (?:prune|rm)|\bdown\b.* (?:-v|--volumes)\b|stack rm|swarm leave"
)


def _docker(call: Call) -> None:
    words = call.words
    joined = " ".join(words)
    if _HOST.search(joined):
        call.risk("privilege", "a container with the rights of the host")
    if _DATA.search(joined):
        call.risk("destructive", "deletes data of containers")


def _terraform(call: Call) -> None:
    if ("destroy" in call.words or "-destroy" in call.words) and "plan" not in operands(call.words)[:1]:
        call.risk("destructive", "destroys what it made")


_REWRITES = re.compile(
    r"\b(?:filter-branch|filter-repo)\b|\breflog (?:expire|delete)\b|\bupdate-ref -d\b|push .*--(?:mirror|prune)"
    r"|push .*(?:--delete|-d) \S*.*\b(?:main|master)\b|push .* :(?:main|master)\b"
)
_ELSEWHERE = re.compile(
    r"(?:-c core\.(?:hookspath|fsmonitor)=|config .*core\.(?:hookspath|fsmonitor) )(?!false\b|\.githooks|\.husky)\S",
    re.IGNORECASE,
)


def _git(call: Call) -> None:
    joined = " ".join(call.words[1:])
    if "--help" in call.words:
        return
    if _REWRITES.search(joined) or re.search(r"\bconfig\b.* remote\.\S+\.push \+", joined):
        call.risk("destructive", "rewrites or deletes history")
    if "credential" in joined and re.search(r"\bcredential(?:-\S+)? (?:fill|get)\b", joined):
        call.risk("secrets", "prints stored passwords")
    for w in call.words[2:]:
        if call.words[1] in ("show", "cat-file") and ":" in w and places.secret_file(w.partition(":")[2]):
            call.risk("secrets", f"{w} holds secrets")
    if "clone" in call.words or "push" in call.words:
        _remote(call)
    if _ELSEWHERE.search(joined):
        call.risk("persistence", "git runs hooks of another place from now on")


def _remote(call: Call) -> None:
    act, *given = [w for w in operands(call.words) if not unknown(w)] or [""]
    if act == "clone" and given and ("://" in given[0] or "@" in given[0]):
        call.walk.trees.add(places.below(_tree(given), call.scope))
    elif act == "push" and given and ("://" in given[0] or re.match(r"[\w.-]+@[\w.-]+:", given[0])):
        call.risk("exfiltration", f"git sends the repository to {given[0]}")


_CLUSTER = re.compile(
    r"://[^/]+/apis?/(?:[\w.-]+/){1,2}(?:namespaces|nodes|persistentvolumes|customresource)|:9200/(?:_all|\*)"
)


def _upload(call: Call) -> None:
    words = call.words
    for i, w in enumerate(words[1:], 1):
        value = words[i + 1] if i + 1 < len(words) else ""
        if (
            w in ("-T", "--upload-file")
            or w.startswith(("--post-file", "--body-file", "--upload-file="))
            or re.match(r"(?:-d|--data\S*|-F|--form)(?:=?@|=?\S*=@|@)", w)
            or (
                w in ("-d", "--data", "--data-binary", "--data-raw", "-F", "--form", "--data-urlencode")
                and "@" in value
            )
        ):
            call.risk("exfiltration", f"{call.name} sends a file")
            if f.ENVIRON in call.stdin.traits:
                call.risk("secrets", f"{call.name} sends the environment, where keys are")
    if {"DELETE", "-XDELETE"} & {*words} and any(_CLUSTER.search(w) for w in words):
        call.risk("destructive", f"{call.name} deletes what a cluster keeps")
    _download(call)


def _download(call: Call) -> None:
    """Remembers where it puts what it fetches."""
    words = call.words
    for i, w in enumerate(words[1:], 1):
        value = words[i + 1] if i + 1 < len(words) else ""
        letter = "o" if call.name == "curl" else "O" if call.name == "wget" else "o"
        if re.fullmatch(rf"-[a-zA-Z]*{letter}|--output|--output-document|--out", w) and value:
            if unknown(value):
                call.walk.fetched = True
            call.walk.downloaded.add(value.removeprefix("./"))
        elif (call.name in ("wget", "wget2") and re.match(r"-[a-zA-Z]*i|--input-file", w)) or (
            call.name == "aria2c" and re.match(r"-i|--input-file", w)
        ):
            call.walk.fetched = True
        elif w.startswith(("--output=", "--output-document=", "-O/", "-o/")):
            call.walk.downloaded.add(w.split("=", 1)[1] if "=" in w else w[2:])
        elif "://" in w and (
            call.name in ("wget", "wget2", "aria2c", "axel")
            or any(x == "--remote-name" or re.fullmatch(r"-[a-zA-Z]*O[a-zA-Z]*", x) for x in words)
        ):
            name = w.split("?")[0].rstrip("/").rsplit("/", 1)[-1]
            into = option(words[1:], "-P", "--directory-prefix", "-d", "--dir", "--output-dir")
            call.walk.downloaded.add(f"{into.rstrip('/')}/{name}".removeprefix("./") if into else name)


def _netcat(call: Call) -> None:
    words, joined = call.words, " ".join(call.words)
    if f.SHELL in call.stdin.traits:
        call.risk("remote_code", f"{call.name} ties a shell to the network")
    if (re.search(r"(?:^| )(?:-\w*[ec]\w*|--(?:sh-)?exec)(?: |$)", joined) and call.name != "socat") or re.search(
        r"(?i)\b(?:exec|system):", joined
    ):
        call.risk("remote_code", f"{call.name} lets the other end run commands")
        call.risk("exfiltration", f"{call.name} opens a shell to the network")
    elif {"-z", "-zv", "-vz", "-nvz"} & set(words):
        call.risk("scanning", "looks for open ports")
    elif call.stdin is not f.EMPTY:
        call.risk("exfiltration", f"{call.name} sends data")


def _copy(call: Call) -> None:
    paths = operands(call.words)
    if len(paths) > 1 and any(re.match(r"[\w.@-]+:", w) for w in paths[:-1]):
        into = paths[-1].removeprefix("./").rstrip("/")
        call.walk.downloaded.add(into)
        for w in paths[:-1]:  # into a directory, perhaps this one
            name = re.split("[:/]", w.rstrip("/"))[-1]
            call.walk.downloaded.add(name if into in (".", "") else f"{into}/{name}")
            call.walk.trees.add(name if into in (".", "") else into)
    if call.name in ("scp", "rsync", "sftp") and re.search(
        r":", operands(call.words)[-1] if operands(call.words) else ""
    ):
        call.risk("exfiltration", f"{call.name} sends files to another host")
    if call.name == "rsync" and any(w.startswith("--delete") for w in call.words):
        target = operands(call.words)[-1:] or [""]
        if not unknown(target[0]) and places.vast(target[0], call.scope.cwd):
            call.risk("destructive", f"deletes what is in {target[0]}")


def _fetched_file(call: Call) -> None:
    """lwp-download URL FILE, ftp -o FILE URL."""
    words = operands(call.words)
    given = option(call.words[1:], "-o") if call.name == "ftp" else words[1] if len(words) > 1 else None
    if given:
        call.walk.downloaded.add(given.removeprefix("./"))


def _svn(call: Call) -> None:
    words = operands(call.words)
    if words[:1] and words[0] in ("export", "checkout", "co") and len(words) > 1:
        call.walk.trees.add(_tree(words[1:]))


def _tree(given: list[str]) -> str:
    """The directory that a repository's clone gets: the one named, else after the repository."""
    name = given[1] if len(given) > 1 else re.split("[:/]", given[0].rstrip("/"))[-1].removesuffix(".git")
    return name.removeprefix("./").rstrip("/")


def _copies_key(call: Call) -> None:
    call.risk("persistence", "ssh-copy-id lets a key in on another host")


_ADDRESSES = re.compile(f"(?:\\d{{1,3}}\\.){{1,3}}[{ANY}{SUBST}]+")


def _asks_names(call: Call) -> None:
    if call.name == "ping" and any(_ADDRESSES.fullmatch(w) for w in call.words[1:]):
        call.risk("scanning", "looks for hosts, one after the other")
    told = f.ENVIRON in call.traits()  # who runs it, which is known here
    if any((SUBST in w or told) and re.search(r"\.[a-z]{2,}\.?$", w) for w in call.words[1:]):
        call.risk("exfiltration", f"{call.name} sends what it found out as the name of a host")


def _ssh(call: Call) -> None:
    if any(re.fullmatch(r"-\w*[RDL]\w*", w) for w in call.words):
        call.risk("exfiltration", "opens a tunnel to another host")
    if len(operands(call.words)) > 1 and call.stdin is not f.EMPTY and call.stdin.text is None:
        call.risk("exfiltration", "ssh sends what comes in to another host")


def _openssl(call: Call) -> None:
    sent = call.stdin
    if "s_client" in call.words and sent is not f.EMPTY and sent.files != ("/dev/null",) and (sent.text or "x").strip():
        call.risk("exfiltration", "openssl sends what comes in to another host")


_GRANTS = re.compile(
    r"(?:privileged|hostPID|hostNetwork|hostIPC|allowPrivilegeEscalation)[\"']?\s*:\s*true|hostPath[\"']?\s*:\s*\{?\s*[\"']?path"
    r"[\"']?\s*:\s*[\"']?/(?:etc|root|var/run|proc|sys|dev)?[\"'\s},]|docker\.sock|name[\"']?\s*:\s*[\"']?cluster-admin"
)


def _kubernetes(call: Call) -> None:
    _secret_printer(call)
    if {"apply", "create", "replace", "patch", "run"} & {*call.words[1:]}:
        given = [call.stdin.text or "", *call.words[1:]]
        given += [call.walk.written.get(w.removeprefix("./")) or "" for w in call.words[1:]]
        if any(_GRANTS.search(text) for text in given):
            call.risk("privilege", "a container with the rights of the host")


def _etcd(call: Call) -> None:
    words = _acts(call)
    if words[:1] == ["del"] and ({"--prefix", "--from-key"} & {*call.words}):
        call.risk("destructive", "empties what the cluster knows")


def _redis(call: Call) -> None:
    if any(re.search(r"(?i)\bFLUSH(?:ALL|DB)\b", text) for text in (*call.words[1:], call.stdin.text or "")):
        call.risk("destructive", "empties the database")


BY_NAME: dict[str, Callable[[Call], None]] = {
    **dict.fromkeys(("curl", "wget", "wget2", "http", "https", "xh", "aria2c", "fetch"), _upload),
    **dict.fromkeys(("nc", "ncat", "netcat", "socat"), _netcat),
    **dict.fromkeys(("scp", "rsync", "sftp"), _copy),
    **dict.fromkeys(("docker", "podman", "nerdctl", "docker-compose"), _docker),
    **dict.fromkeys(("terraform", "tofu", "pulumi", "terragrunt"), _terraform),
    **dict.fromkeys(
        ("gh", "gcloud", "aws", "az", "vault", "pass", "op", "security", "bw", "heroku", "secret-tool",
         "doppler", "helm"), _secret_printer,
    ),
    **dict.fromkeys(("lwp-download", "ftp"), _fetched_file),
    **dict.fromkeys(("dig", "nslookup", "host", "drill", "ping"), _asks_names),
    "svn": _svn, "ssh-copy-id": _copies_key,
    **dict.fromkeys(("kubectl", "oc"), _kubernetes), "etcdctl": _etcd,
    "gpg": _gpg, "git": _git, "openssl": _openssl, "ssh": _ssh, "redis-cli": _redis,
}  # fmt: skip
