"""From the typed tables of the model to the compiled entries of the snapshot, one function for each. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.policy import snapshot as compiled

if TYPE_CHECKING:
    from supervisor.policy import confining, deciding, metering, model


def limits(t: confining.Limits) -> compiled.Limits:
    values = t.model_dump()
    return compiled.Limits(timeout_ms=values.pop("timeout"), idle_timeout_ms=values.pop("idle_timeout"), **values)


def profile(name: str, t: confining.Profile, source: str) -> compiled.Profile:
    return compiled.Profile(
        name=name,
        read=t.read,
        write=t.write,
        execute=t.execute,
        network=t.network,
        limits=limits(t.limits),
        required=t.required,
        env=t.env,
        shell=t.shell,
        workspace_owner=t.workspace_owner,
        source=source,
        autonomy=t.autonomy,
        allowed_commands=t.allowed_commands,
    )


def caller(t: model.Caller, uid: int | None, gid: int | None, source: str) -> compiled.Caller:
    """`uid` and `gid` are what the names of the table stand for on this host."""
    return compiled.Caller(
        unit=t.unit,
        uid=uid,
        gid=gid,
        role=t.role,
        workspaces=t.workspaces,
        profiles=t.profiles,
        any_owner=t.any_owner,
        source=source,
        autonomy=t.autonomy,
        zone=t.zone,
        labels=t.labels,
        must_state=t.must_state,
        may_request=t.may_request,
        name=t.user or t.group or "",
    )


def service(t: model.Service) -> compiled.Service:
    return compiled.Service(t.sessions, t.runs, t.session_idle, *t.uid_range)


def tools(t: deciding.Tools, source: str) -> compiled.Tools:
    return compiled.Tools(**t.model_dump(), source=source)


def autonomy(t: deciding.Autonomy, source: str) -> compiled.Autonomy:
    return compiled.Autonomy(**t.model_dump(), source=source)


def role(name: str, t: deciding.Role, source: str) -> compiled.Role:
    return compiled.Role(name=name, **t.model_dump(), source=source)


def context(t: deciding.Context, source: str) -> compiled.Context:
    return compiled.Context(**t.model_dump(), source=source)


def rule(t: deciding.Rule, source: str) -> compiled.Rule:
    return compiled.Rule(
        name=t.name,
        permissions=t.permissions,
        match=t.match,
        effect=t.effect,
        source=source,
        **t.require.model_dump(),
    )


def rate(t: metering.Rate, source: str) -> compiled.Rate:
    return compiled.Rate(**t.model_dump(), source=source)


def budget(t: metering.Budget, source: str) -> compiled.Budget:
    return compiled.Budget(
        period=t.period,
        scope=t.scope,
        cpu_ms=t.cpu,
        wall_ms=t.wall,
        written=t.written,
        processes=t.processes,
        source=source,
    )


def breaker(t: metering.Breaker, source: str) -> compiled.Breaker:
    return compiled.Breaker(
        failures=t.failures,
        repeats=t.repeats,
        repeat_window_ms=t.repeat_window,
        open_ms=t.open,
        source=source,
    )


def alerts(t: metering.Alerts, source: str) -> compiled.Alerts:
    return compiled.Alerts(**t.model_dump(), source=source)


def concurrency(t: metering.Concurrency, source: str) -> compiled.Concurrency:
    return compiled.Concurrency(
        runs_per_agent=t.runs_per_agent,
        queue=t.queue,
        queue_per_agent=t.queue_per_agent,
        queue_time_ms=t.queue_time,
        source=source,
    )


def approvals(t: deciding.Approvals, source: str) -> compiled.Approvals:
    return compiled.Approvals(
        timeout_ms=t.timeout,
        pending=t.pending,
        grant_ms=t.grant,
        longest_ms=t.longest,
        access_ms=t.access,
        source=source,
    )


def test(t: deciding.Test, source: str) -> compiled.Test:
    return compiled.Test(**t.model_dump(), source=source)
