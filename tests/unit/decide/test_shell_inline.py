"""Code of languages that nobody parses here: texts that are put together, names that are given one, and signs."""

from __future__ import annotations

import pytest

from supervisor.decide.shell import inline


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("x('rm' + ' -rf' + ' /')", "x('rm -rf /')"),
        ('x("rm" . " -rf /")', 'x("rm -rf /")'),
        ("x('rm'..' -rf /')", "x('rm -rf /')"),
        ("const c = 'rm -rf /'; x(c)", "const c = 'rm -rf /'; x('rm -rf /')"),
        ('$c="rm -rf /"; x($c)', '$c="rm -rf /"; x("rm -rf /")'),
        ("const a = 'rm'; const b = ' -rf /'; x(a + b)", "x('rm -rf /')"),
        ("x(process.env.HOME + '/.ssh/id_rsa')", "x('~/.ssh/id_rsa')"),
        ("x(require('os').homedir())", "x('~')"),
        ('x(getenv("HOME"))', "x('~')"),
        ("const c = 'a'; c == 'b'; abc(c)", "abc('a')"),
    ],
)
def test_texts_are_put_together(code: str, found: str) -> None:
    assert found in inline.expanded(code)


@pytest.mark.parametrize(
    "code", ["x(1 + 2)", "const c = f('a'); x(c)", "abc = 'x'; abcd(abcde)", "", "print 'it''s'", "a = 'x' if b else c"]
)
def test_what_is_no_such_text_stays(code: str) -> None:
    assert inline.expanded(code) == code


def test_a_text_that_names_would_take_apart_is_looked_at_as_it_is_too() -> None:
    """A name in the middle of a text is replaced there as well: that must hide nothing."""
    code = "e = 'q'; system('rm -rf / e')"
    assert "rm -rf / e" in inline.read(code).starts
    assert "rm -rf / e" not in inline.read(inline.expanded(code)).starts


@pytest.mark.parametrize(
    ("code", "start"),
    [
        ("require('fs').chmodSync('/bin/bash', 0o4755)", ["chmod", "4755", "/bin/bash"]),
        ('chmod 04755, "/bin/bash"', ["chmod", "4755", "/bin/bash"]),
        ("process.kill(-1, 'SIGKILL')", ["kill", "-9", "-1"]),
        ("kill 9, -1", ["kill", "-9", "-1"]),
        ("new Deno.Command('rm', {args: ['-rf', '/']})", ["rm", "-rf", "/"]),
    ],
)
def test_calls_that_are_commands_are_read_as_those(code: str, start: list[str]) -> None:
    assert start in inline.read(code).starts


@pytest.mark.parametrize(
    ("code", "path"),
    [
        ("require('fs').appendFileSync('/etc/passwd', 'x')", "/etc/passwd"),
        ("require('fs').createWriteStream('/etc/passwd')", "/etc/passwd"),
        ('File.write("/etc/passwd", "")', "/etc/passwd"),
        ('file_put_contents("/etc/passwd", "")', "/etc/passwd"),
        ('open(my $f, ">>", "/etc/passwd")', "/etc/passwd"),
        ('os.remove("/etc/passwd")', "/etc/passwd"),
    ],
)
def test_files_that_are_written_or_removed_are_found(code: str, path: str) -> None:
    assert (path, True) in inline.read(code).paths


@pytest.mark.parametrize(
    "code",
    [
        'unlink glob "/*"',
        'array_map("unlink", glob("/*"));',
        'Dir.glob("/*").each { |f| FileUtils.rm_rf(f) }',
        'unlink("/*", recursive=TRUE)',
    ],
)
def test_deleting_all_of_a_directory_is_found(code: str) -> None:
    assert "/*" in inline.read(code).deletes
