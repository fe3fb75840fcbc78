"""What code handed to a language's own interpreter starts: literals in calls that run programs. Pure.

No language is parsed here. Calls that start programs are found by their names, their literal arguments are read, also
where those are put together or have a name, and everything else about the code stays unsaid.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from supervisor.decide.shell.words import ansi

_STRING = r"""(?:[bBfFuUrR]{0,2})("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`[^`]*`)"""
# A call that takes a shell text or a list of words.
_TEXT_CALL = re.compile(
    r"(?:\b(?:os\s*\.\s*(?:system|popen)|(?:subprocess\s*\.\s*)?(?:run|call|Popen|check_output|check_call|getoutput|getstatusoutput)"
    r"|commands\.getoutput|pty\s*\.\s*spawn|os\.execute|io\.popen|execSync|execFileSync|spawnSync|execFile|exec|spawn|system|passthru"
    r"|shell_exec|do\s+shell\s+script|shell-command|call-process|syscmd|esyscmd|popen|proc_open|Open3\.\w+|IO\.popen|Kernel\.\w+|Deno\.run|Bun\.spawn(?:Sync)?|shell|create_subprocess_shell"
    r"|create_subprocess_exec|(?:os\.)?(?:exec|spawn|posix_spawn)[lvpe]{1,4}|startProcess|Process\.Start|run_command|exec\.Command(?:Context)?|Command::new|getRuntime\(\)\.exec|ProcessBuilder)\b)"
    r"\s*(?:\(|\s|\{)\s*(?:os\.P_\w+\s*,\s*|\w+\s*=\s*)?"
    r"(\[[^\]]*\]|" + _STRING + r"(?:\s*,\s*(?:\[[^\]]*\]|" + _STRING + r"))*)",
)  # fmt: skip
_BACKTICKS = re.compile(
    r"`([^`\n]+)`|(?:\bq[xw]|%x)\s*(?:\(([^)]*)\)|\{([^}]*)\}|\[([^\]]*)\])|\bqx\s*([|!#])(.*?)\5", re.DOTALL
)
# Code that could run a text which it holds in a variable.
_CAPABLE = re.compile(
    r"\b(?:system|popen|exec\w*|spawn\w*|subprocess|getattr|__import__|eval|shell_exec|passthru|qx|getline|timeit|child_process)\b"
    r"|\|\s*\"(?:/bin/)?(?:ba|da|z)?sh"
)
# A text that is code itself, and could start something once it is run.
CODE_TEXT = re.compile(
    r"\b(?:system|popen|exec\w*|spawn\w*|subprocess|eval|getattr|__import__|timeit|child_process|shell_exec|passthru|qx)\b"
    r"[\\\"')\]]*\s*[.(\[{\"'`]",
)
_UNQUOTED = re.compile(r"(?:^|[;\[\n])[ \t]*(?:exec|spawn)\s+(?![\s\"'(])([^\n;\]]+)|e?syscmd\(`?([^)'`\"]+)'?\)")
_OPENED = re.compile(r"""\bopen\s*\(?[^,;()]*,\s*(?:"-\||"\|-|'-\||'\|-)?["']?\s*,?\s*["']\s*\|?([^"'|]+)\|?["']""")
_PIPED = re.compile(r'"((?:[^"\\]|\\.)*)"\s*\|\s*&?\s*getline|\|&?\s*"((?:[^"\\]|\\.)*)"')
_LITERAL = re.compile(_STRING)
_DELETES = re.compile(
    r"(?:\bunlink['\"]\s*,\s*glob\s*\(\s*|(?:rmtree|rmSync|rmdirSync|rimraf|rm_rf|rm_r|remove_dir_all|RemoveAll|Deno\.remove(?:Sync)?|removedirs|rm|remove_tree|deleteTree|FileUtils\.\w+|unlink)"
    r"\s*\(?\s*(?:glob\s*\(?\s*)?"
    r"|\bDir\s*\.\s*(?:glob|children|entries|each_child)\s*\(?\s*(?=[^\n]{0,200}(?:rm_r|delete|unlink|remove))"
    r"|\bfind\s*\(\s*sub\s*\{[^{}]{0,80}unlink[^{}]{0,80}\}\s*,\s*)" + _STRING
)
_HIDDEN = re.compile(
    r"(?:\b(?:exec|eval|system|compile|marshal\.loads|__import__)\b|Function\s*\(|pickle\.loads|\bos\.system|subprocess)"
    r"[\s\S]{0,120}(?:b64decode|decodebytes|fromhex|unhexlify|atob|base64|\bpack\s*[(\"']|fromCharCode|rot.?13|zlib\.decompress|decode_base64"
    r"|\[::-1\]|\breverse\b|\.join\s*\(\s*(?:map\s*\(\s*)?chr|chr\s*\(\s*\d+\s*\)\s*[+.]|codecs\.decode|\\x[0-9a-f]{2}\\x)"
    r"|\bmap\s*\{?\s*chr\b[\s\S]{0,200}\b(?:system|exec|eval)\b",
    re.IGNORECASE,
)
_FETCHED = re.compile(
    r"\b(?:exec|eval|compile|system|Function|instance_eval|loadstring|load)\b[\s\S]{0,200}"
    r"(?:urlopen|urlretrieve|requests\.get|httpx\.get|LWP::|\bget\s*\(?\s*.https?:"
    r"|Net::HTTP|URI\.open|fetch\s*\(|file_get_contents\s*\(\s*.http|https?\.get|open-uri)"
    r"|require\s*\(\s*.https?.\s*\)\s*\.\s*(?:get|request)\b[\s\S]{0,400}\b(?:exec|eval|Function)\b"
    r"|(?:urlopen|urlretrieve|requests\.get|httpx\.get|Net::HTTP|URI\.open|fetch\s*\(|file_get_contents\s*\(\s*.http)[\s\S]{0,400}"
    r"\b(?:exec|eval|instance_eval|os\.system|subprocess)\b"
)
_SHELL_OUT = re.compile(
    r"(?:socket|Socket|TCPSocket|net\.connect|net\.Socket|fsockopen|INET)[\s\S]*(?:dup2|/bin/(?:ba|z|da|a)?sh|pty\.spawn|\bexec\b|cmd\.exe|subprocess|STDIN|IO\.popen)"
)
_GAWK_NET = re.compile(r"/inet[46]?/(?:tcp|udp)/[\s\S]*(?:\|&|\bgetline\b|\bsystem\b)")
_SETUID = re.compile(r"\bset(?:re|res)?uid\s*\(\s*0|\$<\s*=\s*0|\$>\s*=\s*0|Process::Sys\.setuid|posix_setuid")
_FORKS = re.compile(
    r"while\s*(?:\(?\s*(?:1|True|true)\s*\)?)\s*:?\s*(?:\{\s*)?(?:os\.)?fork|fork\s+while\s+(?:fork|1|true)\b"
    r"|loop\s*(?:\{|do)\s*fork|while\s*\(\s*(?:1|true)\s*\)[^\n;]{0,80}\bfork\s*\("
)
_MEMORY = re.compile(r"memfd_create|ctypes[\s\S]*(?:execve|syscall)|\bsyscall\s*\(?\s*\(?\s*(?:319|59|221)")
_WRITES = re.compile(
    r"\bopen\s*\(\s*" + _STRING + r"\s*,\s*['\"][wa]"
    r"|(?:(?:write|append)File(?:Sync)?|createWriteStream|\b(?:File|IO)\s*\.\s*(?:write|binwrite|delete|unlink)"
    r"|file_put_contents|\bunlink|os\s*\.\s*remove|(?:truncate|unlink)Sync)\s*\(?\s*"
    + _STRING
    + r"|\bopen\s*\(?[^;()]{0,40},\s*['\"]\+?>>?['\"]\s*,\s*"
    + _STRING
)
_CHMOD = re.compile(r"\bchmod(?:Sync)?\s*\(?\s*" + _STRING + r"\s*,\s*0?o?([0-7]{3,4})\b")
_CHMOD_FIRST = re.compile(r"\bchmod\s*\(?\s*0?o?([0-7]{3,4})\s*,\s*" + _STRING)
_ENDS_ALL = re.compile(r"\bkill\s*\(?\s*(?:['\":]?\w+['\"]?\s*,\s*)?-1\b")
_DENO = re.compile(r"\bDeno\.Command\s*\(\s*" + _STRING + r"\s*,\s*\{[^{}]{0,200}?\bargs\s*:\s*(\[[^\]]*\])")
# Rust: Command::new("sh").arg("-c").args(["x", "y"])
_COMMAND_NEW = re.compile(
    r"\bCommand::new\s*\(\s*"
    + _STRING
    + r"\s*\)(?:\s*\.\s*args?\s*\(\s*&?(?:\[[^\]]{0,2000}\]|"
    + _STRING
    + r")\s*\)){1,16}"
)
_INCLUDES = re.compile(r"\b(?:include|require)(?:_once)?\b\s*\(?\s*['\"](?:https?|ftp|data):")
_SHELL_NET = re.compile(
    r"(?:spawn|exec)\w*\s*\(\s*['\"](?:/bin/)?(?:ba|z|da|a)?sh['\"][\s\S]{0,400}(?:\bnet\s*\.|Socket|\bconnect\s*\()"
    r"|require\s*\(\s*['\"](?:net|tls)['\"][\s\S]{0,400}(?:spawn|exec)\w*\s*\(\s*['\"](?:/bin/)?(?:ba|z|da|a)?sh['\"]"
)
FETCHES = re.compile(r"https?\s*\.\s*get\b|\bfetch\s*\(|LWP|Net::HTTP|URI\.open|open-uri|https?['\"]\s*\)\s*\.\s*get")
# What stands for the home directory, for a text put together of two, and for a name that is given a text.
_HOME = re.compile(
    r"process\.env\.HOME\b|(?:require\s*\(\s*['\"]os['\"]\s*\)|\bos)\s*\.\s*homedir\s*\(\s*\)|\bENV\s*\[\s*['\"]HOME['\"]\s*\]"
    r"|\$ENV\{['\"]?HOME['\"]?\}|\bgetenv\s*\(\s*['\"]HOME['\"]\s*\)|\bDir\s*\.\s*home\b"
)
_TWO = re.compile(
    r"(?P<a>['\"])(?P<left>[^'\"\\\n]{0,400})(?P=a)\s*(?:\+|\.\.?)\s*(?P<b>['\"])(?P<right>[^'\"\\\n]{0,400})(?P=b)"
)
_GIVEN = re.compile(
    r"(?:^|[;\n{(,]|\b(?:const|let|var|local|my|our)\b)\s*(?P<name>[$@]?[A-Za-z_]\w{0,40})\s*=\s*(?P<text>'[^'\\\n]{1,200}'|\"[^\"\\\n]{1,200}\")"
)
_READS = re.compile(
    r"\b(?:open|readFile(?:Sync)?|read_text|File\.read|file_get_contents|slurp|Path|readlines)\s*\(\s*" + _STRING
)


@dataclass(slots=True)
class Found:
    """What code does, of any language: shell texts and lists of words that it starts, what it deletes with all that is
    in it, files, signs.
    """

    starts: list[str | list[str]] = field(default_factory=list)
    deletes: list[str] = field(default_factory=list)
    paths: list[tuple[str, bool]] = field(default_factory=list)  # and whether it is written
    signs: list[tuple[str, str]] = field(default_factory=list)
    opaque: bool = False  # something is started of which it does not tell what: any text of it may be that

    def size(self) -> int:
        return len(self.starts) + len(self.deletes) + len(self.paths) + len(self.signs)


def read(code: str, *, guess: bool = True) -> Found:
    """What patterns find in the code of whatever language."""
    return Found(starts(code, guess=guess), deletes(code), paths(code), signs(code))


def expanded(code: str) -> str:
    """The code with texts put together that stand as two, and names replaced by the text that they were given.

    A name may be given another text later, and be part of one: so this is looked at beside the code, never instead.
    """
    code = _HOME.sub("'~'", code)
    for found in list(_GIVEN.finditer(code))[:16]:
        edge = r"(?<![\w$@.'\"])" + ("" if found["name"][0] in "$@" else r"\b")
        used = re.compile(rf"{edge}{re.escape(found['name'])}\b(?!\s*=[^=])")
        text = found["text"].replace("\\", r"\\")
        code = code[: found.end()] + used.sub(text, code[found.end() :])[:65_536]
    for _ in range(8):
        joined = _TWO.sub(r"\g<a>\g<left>\g<right>\g<a>", code)
        if joined == code:
            break
        code = joined
    return code


def literal(quoted: str) -> str:
    return ansi(quoted[1:-1]) if "\\" in quoted else quoted[1:-1]


def _capable(code: str) -> bool:
    """Whether code could run a text that it holds: by a name of its own, not by a word in what it says."""
    if not _CAPABLE.search(code):
        return False
    bare = _LITERAL.sub(lambda m: m[0] if " " not in m[1] or CODE_TEXT.search(m[1][1:-1]) else "''", code)
    return _CAPABLE.search(bare) is not None


def runs_arguments(code: str) -> bool:
    """Whether code could run what it was called with."""
    return re.search(r"\b(?:argv|ARGV|args)\b", code) is not None and _capable(code)


def starts(code: str, *, guess: bool = True) -> list[str | list[str]]:
    """What the code starts: shell texts, and lists of words. With `guess` any text of it, where it starts some."""
    out: list[str | list[str]] = []
    for match in _TEXT_CALL.finditer(code):
        given = match.group(1)
        literals = [literal(m.group(1)) for m in _LITERAL.finditer(given)]
        if not literals:
            continue
        if given.startswith("["):
            out.append(literals)
        elif len(literals) == 1:
            out.append(literals[0])
        else:
            # execlp("rm", "rm", "-rf", "/") repeats its name; spawn("rm", ["-rf", "/"]) does not.
            out.append(literals)
            if literals[0].rsplit("/", 1)[-1] == literals[1].rsplit("/", 1)[-1]:
                out.append([literals[0], *literals[2:]])
    out += [["chmod", m.group(2), literal(m.group(1))] for m in _CHMOD.finditer(code)]
    out += [["chmod", m.group(1), literal(m.group(2))] for m in _CHMOD_FIRST.finditer(code)]
    out += [["kill", "-9", "-1"] for _ in list(_ENDS_ALL.finditer(code))[:1]]
    out += [[literal(m.group(1)), *strings(m.group(2))] for m in _DENO.finditer(code)]
    for match in _COMMAND_NEW.finditer(code):
        out.append([literal(m.group(1)) for m in _LITERAL.finditer(match.group(0))])
    out += [m.group(1) for m in _OPENED.finditer(code) if "|" in m.group(0)]
    out += [m.group(1) or m.group(2) for m in _UNQUOTED.finditer(code)]
    for pattern in (_BACKTICKS, _PIPED) if guess else (_PIPED,):
        for match in pattern.finditer(code):
            found = next((g for g in match.groups() if g and len(g) > 1), "")
            if found:
                out.append(ansi(found) if "\\" in found else found)
    if guess and _capable(code):
        texts = [t for t in strings(code) if " " in t.strip() and len(t) < 4096]
        out += texts
        for text in texts:
            if _capable(text) and text != code:
                out += starts(text)
    return out[:64]


def strings(code: str) -> list[str]:
    """The strings that stand in the code."""
    return [literal(m.group(1)) for m in _LITERAL.finditer(code[:65536])][:512]


# A text of SQL that is handed to what runs it.
_SQL = re.compile(
    r"(?:\.|::|->)\s*(?:statement|unprepared|execute\w*|executescript|query\w*|exec|raw|text|prepare|run|\$executeRaw\w*|\$queryRaw\w*|createQuery|update)"
    r"\s*\(?\s*(?:\w+\s*\(\s*)?"
    r"(?:[bBfFuUrR]{0,2}(?P<three>\"{3}|'{3})(?P<long>[\s\S]{0,4096}?)(?P=three)|" + _STRING + r")"
)
_SQL_VERB = re.compile(r"\s*(?:drop|truncate|delete\s+from|alter)\b|[\s\S]*;\s*(?:drop|truncate)\b", re.IGNORECASE)


def statements(code: str) -> list[str]:
    """Statements of SQL that take something away, where code hands them to a database."""
    found = [m["long"] or literal(m[3] or '""') for m in _SQL.finditer(code[:65536])]
    return [text for text in found if _SQL_VERB.match(text)][:16]


def deletes(code: str) -> list[str]:
    """Directories that the code deletes with all that is in them, by a call of its own."""
    return [literal(m.group(1)) for m in _DELETES.finditer(code)][:64]


def paths(code: str) -> list[tuple[str, bool]]:
    """Files that the code opens by a literal name; whether it writes them."""
    written = [literal(next(g for g in m.groups() if g)) for m in _WRITES.finditer(code)]
    read = [literal(m.group(1)) for m in _READS.finditer(code)]
    return [(p, True) for p in written[:64]] + [(p, False) for p in read[:64] if p not in written]


_EMPTIES = re.compile(r"\.\s*(?:flush_?(?:all|db)|drop_?database|dropDatabase)\s*\(", re.IGNORECASE)
_SENDS_ENVIRON = re.compile(
    r"(?:fetch|axios|request|post|send|write|urlopen)\w*\s*\([\s\S]{0,300}"
    r"(?:JSON\.stringify\s*\(\s*process\.env\s*[),]|\.\.\.process\.env\b|dict\s*\(\s*os\.environ\s*\)|ENV\.to_h)"
)


def signs(code: str) -> list[tuple[str, str]]:
    """(kind, detail) of the dangers that show in the code itself."""
    out = []
    if _EMPTIES.search(code):
        out.append(("destructive", "code that empties a database"))
    if _SENDS_ENVIRON.search(code):
        out.append(("secrets", "code that sends the environment, where keys are"))
    if _HIDDEN.search(code):
        out.append(("evasion", "code that runs decoded text"))
    if _FETCHED.search(code):
        out.append(("remote_code", "code that runs what it fetched"))
    if _INCLUDES.search(code):
        out.append(("remote_code", "code that includes what is on another host"))
    if _SHELL_OUT.search(code) or _SHELL_NET.search(code) or ("/inet" in code and _GAWK_NET.search(code)):
        out += [("remote_code", "code that ties a shell to the network"), ("exfiltration", "a shell to the network")]
    if _SETUID.search(code):
        out.append(("privilege", "code that becomes root"))
    if _FORKS.search(code):
        out.append(("destructive", "code that starts itself again and again"))
    if _MEMORY.search(code):
        out.append(("evasion", "code that starts a program which is in no file"))
    return out
