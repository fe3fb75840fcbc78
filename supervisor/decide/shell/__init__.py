"""What a command or a script would run, as far as its text tells: every simple command, wherever it stands. Pure.

This is advice for policy and for people who are asked, never the boundary: what must not happen is the profile's to
prevent, in the kernel. So everything here errs towards saying what it saw, and an unknown word is called unknown.

    analyse.py    the entry points: a command, a script
    match.py      patterns of policy against what was found
    model.py      what is found: commands, risks, named paths

    walk.py       through the syntax tree, statement by statement
    compound.py   lists, pipes, loops, conditions, functions
    words.py      from a word of the parser to what the shell makes of it
    params.py     what `${...}` stands for
    scope.py      what is known of variables, functions, aliases, the directory
    marks.py      what stands in a word for what is not known
    flow.py       what runs through a pipe
    limits.py     how far all this goes

    calls.py      one simple command: noted, looked at, followed into what it starts
    answers.py    what pwd, dirname, which and so on say, told by their words
    builtins.py   commands of the shell that change what holds for the next
    readers.py    shells and interpreters: whatever reads a text as a program
    inline.py     what code handed to perl, awk, node and so on starts: by patterns
    pycode.py     what Python code does, read by ast: statements and calls
    pyeval.py     what its expressions come to
    pyvalues.py   the values themselves
    pyeffects.py  which of its calls matter
    starters.py   env, xargs, find, ssh and so on: programs that start others
    git.py        the same of git
    tools.py      the same of make, tar, docker and so on
    remote.py     the same of ansible, pdsh, cloud shells: commands that run elsewhere
    projects.py   the same of npm, go, pytest, rails: what they run of files that the text wrote
    options.py    how arguments are told apart
    programs.py   tables of well-known programs and of their options

    risks.py      signs of danger in one command
    services.py   the same in what talks to other hosts, clouds, containers
    admin.py      the same in what administers a machine: network, services, packages, databases
    variables.py  variables that programs obey
    places.py     the paths that a command names, and which of them are dangerous
"""
