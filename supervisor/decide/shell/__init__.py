"""What a command or a script would run, as far as its text tells: every simple command, wherever it stands. Pure.

This is advice for policy and for people who are asked, never the boundary: what must not happen is the profile's to
prevent, in the kernel. So everything here errs towards saying what it saw, and an unknown word is called unknown.

    model.py      what is found: commands, risks, named paths
    programs.py   what well-known programs are and how their options read
    marks.py      what stands in a word for what is not known
    scope.py      what is known of variables, functions, aliases, the directory
    words.py      from a word of the parser to what the shell makes of it
    params.py     what `${...}` stands for
    walk.py       through the syntax tree, statement by statement
    calls.py      one simple command: what it is, what it starts in turn, what it writes to a pipe
    starters.py   the programs that start others: env, xargs, find, ssh, git and so on
    inline.py     what code handed to python, perl, awk and so on starts
    risks.py      signs of danger in one command
    places.py     the paths that a command names, and which of them are dangerous
    match.py      patterns of policy against all that
    analyse.py    the entry points
"""
