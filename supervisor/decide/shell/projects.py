"""What build tools, package managers and frameworks run: files that the same text wrote, code in an option, databases.

A text that writes a package.json, setup.py or main.go and then has it run hides its commands no better than `sh -c`.
Pure.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from supervisor.decide.shell import readers, starters
from supervisor.decide.shell.options import operands, option
from supervisor.decide.shell.programs import RUNNERS, base

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.decide.shell.calls import Call
    from supervisor.decide.shell.flow import Flow

_MOST = 16  # scripts or files of one project
_RUNS_SCRIPTS = frozenset(
    ["install", "i", "ci", "add", "run", "run-script", "test", "t", "start", "stop", "restart", "publish", "pack",
     "rebuild", "version", "exec", "dev", "build"]
)  # fmt: skip


def node(call: Call) -> Flow | None:
    """npm, yarn, pnpm and bun run the scripts of package.json, also those that nobody named (postinstall)."""
    words = operands(call.words)
    text = call.walk.written.get("package.json")
    if text and (not words or words[0] in _RUNS_SCRIPTS):
        for script in _scripts(text):
            call.shell(script, "package.json")
    if words[:2] == ["pkg", "set"]:
        for w in words[2:]:
            if found := re.match(r"scripts\.[^=]+=(.+)", w, re.DOTALL):
                call.shell(found[1], "package.json")
    return starters.runner(call) if call.name in RUNNERS else None


def _scripts(text: str) -> list[str]:
    try:
        found = json.loads(text).get("scripts", {})
    except (ValueError, AttributeError):
        return []
    return [s for s in (found.values() if isinstance(found, dict) else ()) if isinstance(s, str)][:_MOST]


_SOURCES = re.compile(r"(?:^|/)(?:main\.go|main\.rs|build\.rs|lib\.rs)$")


def compiled(call: Call) -> Flow | None:
    """go run FILE, cargo run, java FILE: source that the same text wrote."""
    words = operands(call.words)
    named = [w for w in words if w.endswith((".go", ".rs", ".java", ".kt", ".c", ".cpp"))]
    if not named and words[:1] and words[0] in ("run", "build", "test", "check", "generate", "install"):
        named = [path for path in call.walk.written if _SOURCES.search(path)]
    for path in named[:_MOST]:
        if text := call.walk.written.get(path.removeprefix("./")):
            readers.code(call, text, f"{call.name} {path}")
    return None


def python(call: Call) -> Flow | None:
    """pip install DIRECTORY runs setup.py, pytest runs conftest.py and the tests."""
    words = operands(call.words)
    if call.name in ("pytest", "py.test", "tox", "nox"):
        named = [p for p in call.walk.written if re.search(r"(?:conftest|noxfile|(?:^|/)test_\w+|\w+_test)\.py$", p)]
    elif "install" in words and any(w == "." or w.startswith(("./", "..", "/")) or "[" in w for w in words):
        named = [p for p in call.walk.written if base(p) in ("setup.py", "build.py", "hatch_build.py")]
    else:
        named = []
    for path in named[:_MOST]:
        if text := call.walk.written.get(path):
            call.run(["python", "-c", text], path)
    return starters.runner(call) if call.name in RUNNERS else None


_EMPTIES = re.compile(
    r"(?:rails|rake) (?:[^\n]{0,120} )?db:(?:drop|reset|purge|migrate:reset|schema:load)\b"
    r"|prisma (?:migrate reset|db push [^\n]{0,200}--(?:force-reset|accept-data-loss))"
    r"|manage\.py (?:flush|reset_db|sqlflush)|django-admin (?:flush|reset_db)"
    r"|artisan (?:migrate:(?:fresh|reset|refresh)|db:wipe)"
    r"|sequelize(?:-cli)? db:drop|typeorm (?:[^\n]{0,120} )?schema:drop|knex migrate:rollback [^\n]{0,200}--all"
    r"|diesel (?:database reset|database drop)|sqlx database (?:drop|reset)|mix ecto\.(?:drop|reset)"
    r"|flyway (?:[^\n]{0,120} )?clean|liquibase (?:[^\n]{0,120} )?drop-?all|supabase db reset"
    r"|alembic downgrade base|dbmate drop"
    r"|goose (?:[^\n]{0,120} )?reset|heroku pg:reset|dropdb"
)


def framework(call: Call) -> Flow | None:
    """Commands of frameworks that drop or empty the database which the project is set up for."""
    said = " ".join([call.name, *map(base, call.words[1:])])
    if found := _EMPTIES.search(said):
        call.risk("destructive", f"{found[0][:60]} drops what the database keeps")
    code, language = None, "ruby"
    if call.name == "rails" and {"runner", "r"} & {*call.words[1:2]}:
        code = next((w for w in operands(call.words)[1:]), None)
    elif "artisan" in said and "tinker" in call.words:
        code, language = option(call.words[1:], "--execute"), "php"
    if code:
        call.run([language, "-e" if language == "ruby" else "-r", code], f"{call.name} console")
    if call.name == "heroku" and "pg:psql" in call.words:
        call.run(["psql", *call.words[call.words.index("pg:psql") + 1 :]], "heroku pg:psql")
    if call.name == "prisma" and call.words[1:3] == ["db", "execute"]:
        call.run(["psql", "-c", call.stdin.text or ""], "prisma db execute")
    return None


def managed(call: Call) -> Flow | None:
    """`python manage.py …`, `php artisan …`, or else an interpreter as any."""
    words = operands(call.words)
    if words and base(words[0]) in ("manage.py", "artisan"):
        framework(call)
        if words[1:2] == ["shell"] and (code := option(call.words, "-c", "--command")):
            call.run(["python", "-c", code], "manage.py shell")
        elif words[1:2] == ["dbshell"]:
            call.run(["psql"], "manage.py dbshell")
    return readers.interpreter(call)


# Of them, those that follow nothing but files which the same text wrote: words alone hold no text for a shell.
OF_FILES = frozenset(
    ["go", "cargo", "java", "rustc", "gcc", "tinygo", "pytest", "py.test", "tox", "nox", "pip", "pip3"]
)
STARTS: dict[str, Callable[[Call], Flow | None]] = {
    **dict.fromkeys(("npm", "yarn", "pnpm"), node),
    **dict.fromkeys(("go", "cargo", "java", "rustc", "gcc", "tinygo"), compiled),
    **dict.fromkeys(("pytest", "py.test", "tox", "nox", "pip", "pip3", "uv", "poetry", "pdm"), python),
    **dict.fromkeys(("python", "php"), managed),
    **dict.fromkeys(
        ("rails", "rake", "prisma", "django-admin", "sequelize", "sequelize-cli", "typeorm", "knex", "diesel", "sqlx",
         "mix", "flyway", "liquibase", "supabase", "alembic", "dbmate", "goose", "artisan", "heroku", "manage.py"),
        framework,
    ),
}  # fmt: skip
