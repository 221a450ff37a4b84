"""What a tenant may do, its models, tiers, rates and budgets, and what is kept of its calls.

Deny by default: a model or tier that is not allowed is refused. Knows neither keys nor headers; the caller brings the
clock.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, field, structs

from registry.errors import PermissionDeniedError, RateLimitedError

from .budget import BudgetLimit

ContentMode = Literal["redacted", "hash", "none"]
Rate = Annotated[float, Meta(gt=0)]

_S_PER_MINUTE: Final = 60.0
_ROUNDING: Final = 1e-9


class Tenant(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whose calls these are, and what may be kept of them."""

    name: Annotated[str, Meta(min_length=1, max_length=128)] = "default"
    content_mode: ContentMode = "redacted"
    """redacted: texts without personal data; hash: digests only; none: neither."""
    user_tier: str | None = None
    """The tier of its calls that name none; None: the planner's default."""
    allowed_user_tiers: tuple[str, ...] | None = None
    """Tiers that its calls may name; None: its own, or any when it has none."""
    allowed_models: tuple[str, ...] | None = None
    """Names its callers may ask for: exact, or a beginning followed by `*`; None: any. `auto` is a name like others."""
    budget_usd_per_day: Annotated[float, Meta(ge=0)] | None = None
    budget_usd_per_month: Annotated[float, Meta(ge=0)] | None = None
    requests_per_minute: Rate | None = None
    tokens_per_minute: Rate | None = None
    teaches: bool = True
    """Whether its feedback moves routing, which it does for all tenants; it is recorded anyhow."""

    def check_model(self, model: str) -> None:
        """Raise PermissionDeniedError, naming what is allowed, unless the tenant's callers may ask for the model."""
        if not may_use_model(self, model):
            allowed = ", ".join(f"`{name}`" for name in self.allowed_models or ()) or "none"
            message = f"{_name(self)} may not use the model `{model[:128]}`. Allowed: {allowed}."
            raise PermissionDeniedError(message, param="model")


class AccessPolicy(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole of access.yaml."""

    default: Tenant = field(default_factory=Tenant)
    """For tenants that are not listed; its name is not used."""
    tenants: tuple[Tenant, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError, which strict loading turns into a finding, for a tenant that is listed twice."""
        names = [tenant.name for tenant in self.tenants]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"tenant `{twice}` is listed twice")

    @property
    def has_budgets(self) -> bool:
        """Whether any tenant's spending is limited."""
        return any(budget_limits(tenant) for tenant in (self.default, *self.tenants))

    def tenant(self, name: str) -> Tenant:
        """Return the tenant's own terms, or the default ones under its name."""
        listed = next((tenant for tenant in self.tenants if tenant.name == name), None)
        return listed if listed is not None else structs.replace(self.default, name=name)


def may_use_model(tenant: Tenant, model: str) -> bool:
    """Say whether a tenant may ask for the model (`auto`, a model's name, or a specialist's id)."""
    if tenant.allowed_models is None:
        return True
    return any(
        model.startswith(allowed[:-1]) if allowed.endswith("*") else model == allowed
        for allowed in tenant.allowed_models
    )


def tier_for(tenant: Tenant, hinted: str | None) -> str | None:
    """Return the tier of a call: the hinted one if the tenant may name it, else its own; None leaves it to the planner.

    Raises PermissionDeniedError.
    """
    if hinted is None or hinted == tenant.user_tier:
        return hinted or tenant.user_tier
    allowed = tenant.allowed_user_tiers
    if allowed is None:
        allowed = (tenant.user_tier,) if tenant.user_tier is not None else (hinted,)
    if hinted in allowed:
        return hinted
    listed = ", ".join(f"`{name}`" for name in allowed) or "none"
    message = f"{_name(tenant)} may not ask for the tier `{hinted[:64]}`. Allowed: {listed}."
    raise PermissionDeniedError(message, param="routing.user_tier")


def budget_limits(tenant: Tenant) -> tuple[BudgetLimit, ...]:
    """Return a tenant's budgets for the ledger."""
    limits: list[BudgetLimit] = []
    if tenant.budget_usd_per_day is not None:
        limits.append(BudgetLimit(window="day", limit_usd=tenant.budget_usd_per_day))
    if tenant.budget_usd_per_month is not None:
        limits.append(BudgetLimit(window="month", limit_usd=tenant.budget_usd_per_month))
    return tuple(limits)


class TokenBucket:
    """A rate with a burst of one minute's worth: `take` what a call needs, or learn how long to wait.

    An amount above the burst is let through when the bucket is full, and leaves a debt: no call waits for ever.
    """

    __slots__ = ("_burst", "_filled_s", "_level", "per_minute")

    def __init__(self, per_minute: float, burst: float | None = None) -> None:
        self.per_minute = per_minute
        self._burst = max(1.0, per_minute if burst is None else burst)
        self._level = self._burst
        self._filled_s: float | None = None

    def wait_s(self, amount: float, now_s: float) -> float:
        """Return the seconds until the amount could be taken; 0: now. Takes nothing."""
        self._fill(now_s)
        short = min(amount, self._burst) - self._level
        return max(0.0, short * _S_PER_MINUTE / self.per_minute) if short > _ROUNDING else 0.0

    def take(self, amount: float, now_s: float) -> float:
        """Take the amount and return 0, or take nothing and return the seconds to wait."""
        wait_s = self.wait_s(amount, now_s)
        if wait_s == 0.0:
            self._level -= amount
        return wait_s

    def give_back(self, amount: float) -> None:
        """Return what was taken and not needed; a negative amount takes what was needed on top."""
        self._level = min(self._burst, self._level + amount)

    def _fill(self, now_s: float) -> None:
        if self._filled_s is not None and now_s > self._filled_s:
            gained = (now_s - self._filled_s) * self.per_minute / _S_PER_MINUTE
            self._level = min(self._burst, self._level + gained)
        self._filled_s = now_s if self._filled_s is None else max(now_s, self._filled_s)


class RateLimiter:
    """The buckets of tenants: at most `capacity`, those used last."""

    def __init__(self, capacity: int = 10_000) -> None:
        self._capacity = capacity
        self._buckets: OrderedDict[tuple[str, float], TokenBucket] = OrderedDict()

    def admit(self, tenants: tuple[Tenant, ...], tokens: float, now_s: float) -> None:
        """Take one request and its tokens from every tenant's buckets, or nothing.

        Raises RateLimitedError naming the limit, with `retry_after_s`.
        """
        needs = [need for tenant in tenants for need in self._needs(tenant, tokens)]
        for bucket, amount, said in needs:
            wait_s = bucket.wait_s(amount, now_s)
            if wait_s > 0.0:
                raise RateLimitedError(f"{said}; try again in {wait_s:.1f} s.", retry_after_s=wait_s)
        for bucket, amount, _ in needs:
            bucket.take(amount, now_s)

    def correct(self, tenants: tuple[Tenant, ...], unused_tokens: float) -> None:
        """Give back tokens that were admitted and not used; negative when more were used."""
        for tenant in tenants:
            if tenant.tokens_per_minute is not None:
                self._bucket(f"{_name(tenant)} tokens", tenant.tokens_per_minute).give_back(unused_tokens)

    def _needs(self, tenant: Tenant, tokens: float) -> list[tuple[TokenBucket, float, str]]:
        needs: list[tuple[TokenBucket, float, str]] = []
        for rate, unit, amount in (
            (tenant.requests_per_minute, "requests", 1.0),
            (tenant.tokens_per_minute, "tokens", tokens),
        ):
            if rate is not None:
                said = f"{_name(tenant)} may use {rate:g} {unit} a minute"
                needs.append((self._bucket(f"{_name(tenant)} {unit}", rate), amount, said))
        return needs

    def _bucket(self, name: str, per_minute: float) -> TokenBucket:
        key = (name, per_minute)
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(per_minute)
            if len(self._buckets) > self._capacity:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(key)
        return bucket


def _name(tenant: Tenant) -> str:
    return f"The tenant `{tenant.name}`"
