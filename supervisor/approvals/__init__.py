"""Asking people: pending questions, their answers, what was granted with scope, count and end, and one-time codes.

`model` says what a question, an answer, a target and a grant are. `book` keeps them, durable and bounded; `index` is
its memory, `rows` its tables, `deadlines` its one timer, `terms` what an answer may say, `report` what it tells.
`gate` is the way in for whoever needs a yes; `access` and `operations` ask for roles and privileged orders through
it. `totp` checks one-time codes (RFC 6238).
"""
