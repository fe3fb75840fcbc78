"""Snapshots and peers for tests, each part of which a test may change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from supervisor.policy.snapshot import Caller, Limits, Profile, Service, Snapshot
from supervisor.runs.model import Peer, RunRequest, Session

LIMITS = Limits(
    memory=512 << 20,
    cpu=80,
    processes=64,
    files=1024,
    output=16 << 20,
    disk=1 << 30,
    tmp=64 << 20,
    timeout_ms=60_000,
    idle_timeout_ms=30_000,
)


def profile(name: str = "shell", **changes: Any) -> Profile:
    whole = Profile(  # noqa: S604 - a field of policy named shell, no subprocess
        name=name,
        read=("/usr", "/etc"),
        write=("$WORKSPACE", "/tmp"),
        execute=("/usr/bin",),
        network="none",
        limits=LIMITS,
        required=("landlock",),
        env=(("EDITOR", "true"),),
        shell="/bin/sh",
        workspace_owner="mapped",
        source="/etc/stockade/policy.toml:3",
    )
    return replace(whole, **changes)


def caller(**changes: Any) -> Caller:
    whole = Caller(
        unit=None,
        uid=1000,
        gid=None,
        role="operator",
        workspaces=("/srv/agents/*",),
        profiles=("shell",),
        any_owner=False,
        source="/etc/stockade/policy.toml:20",
        labels=(("*", ("*",)),),
    )
    return replace(whole, **changes)


def snapshot(*callers: Caller, profiles: tuple[Profile, ...] | None = None, **service: Any) -> Snapshot:
    bounds = Service(sessions=4, runs=4, session_idle_ms=60_000, uid_base=900_000, uid_count=1000)
    return Snapshot(
        profiles=profiles or (profile(), profile("other", source="/etc/stockade/policy.toml:11")),
        callers=callers or (caller(),),
        service=replace(bounds, **service),
        files=(("/etc/stockade/policy.toml", "0" * 64),),
    )


def peer(uid: int = 1000, **changes: Any) -> Peer:
    return replace(Peer(pid=4711, uid=uid, gid=uid, gids=(uid,), unit="", inside=False), **changes)


def request(**changes: Any) -> RunRequest:
    return replace(RunRequest(workspace="/srv/agents/a", argv=("true",)), **changes)


def session(**changes: Any) -> Session:
    found = Session(
        id="ses-aaaaaaaaaaaaaaaaaaaa",
        peer=peer(),
        caller=0,
        profile="shell",
        workspace="/srv/agents/a",
        digest="0" * 64,
        one_shot=False,
        labels={},
        state="live",
        granted=profile(),
    )
    for name, value in changes.items():
        setattr(found, name, value)
    return found
