"""As carry.py, for the keys that say how much: rates and alerts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from supervisor.policy.words import COMPARED

if TYPE_CHECKING:
    from supervisor.policy.importing.draft import Draft


def _rate(d: Draft, value: Any, period: str, scope: str = "agent") -> str | None:
    if type(value) is not int or not 0 <= value <= 1_000_000:
        return f"{value!r} is not a usable number"
    if value == 0:
        return "0 would refuse everything; no such bound is set"
    told = f"rates.{scope}.{period}"
    value = d.imported[told] = min(
        value, d.imported.get(told, value)
    )  # several keys may say it, and each of them holds
    for entry in d.get("rates") or []:
        if entry.get("scope", "agent") == scope:
            d.set_entry("rates", scope, period, value)
            return None
    d.add("rates", {"scope": scope, period: value}, "what is refused does not count")
    return None


def per_minute(d: Draft, value: Any) -> str | None:
    return _rate(d, value, "per_minute")


def per_hour(d: Draft, value: Any) -> str | None:
    return _rate(d, value, "per_hour")


def per_day(d: Draft, value: Any) -> str | None:
    return _rate(d, value, "per_day")


def failed_per_hour(d: Draft, value: Any) -> str | None:
    return _alert(d, value, "failed_per_hour")


def sensitive_per_hour(d: Draft, value: Any) -> str | None:
    return _alert(d, value, "sensitive_per_hour")


def _alert(d: Draft, value: Any, key: str) -> str | None:
    if type(value) is not int or not 0 <= value <= 1_000_000:
        return f"{value!r} is not a usable number"
    if value == 0:
        return "0 is never here; 1 is at the first"
    d.set("alerts", key, value=value)
    return None


def baseline(d: Draft, value: Any) -> str | None:
    """BASELINE_PERIOD 7d"""
    if type(value) is not str or not re.fullmatch(r"[1-9]\d?d", value) or int(value[:-1]) > 90:
        return f"{value!r} is not one to 90 days, as in 7d"
    d.set("alerts", "unusual_period", value=f"{int(value[:-1]) * 24}h")
    d.set("alerts", "unusual", value=list(COMPARED))
    return None


def threshold(d: Draft, value: Any) -> str | None:
    """ANOMALY_THRESHOLD 3sigma"""
    number = re.fullmatch(r"([1-9]\d?)(?:\.0)?\s*(?:sigma)?", str(value))
    if number is None or type(value) is bool:
        return f"{value!r} is no whole number of standard deviations, as in 3sigma"
    d.set("alerts", "unusual_threshold", value=int(number[1]))
    d.set("alerts", "unusual", value=list(COMPARED))
    return None


def rate_on(_d: Draft, value: Any) -> str | None:
    return None if value is True else "leave [[rates]] out to bound nothing"


def rate_limit(d: Draft, value: Any) -> str | None:
    return _rate(d, value, "per_minute", "caller")


def rate_window(_d: Draft, value: Any) -> str | None:
    return None if value == 60_000 else "windows are a minute, an hour or a day here; maxRequests was taken per minute"
