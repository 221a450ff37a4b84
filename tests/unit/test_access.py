from pathlib import Path

import pytest

import policies
from policies.access import (
    AccessPolicy,
    RateLimiter,
    Tenant,
    TokenBucket,
    budget_limits,
    may_use_model,
    tier_for,
)
from policies.budget import BudgetLimit
from registry.errors import ConfigError, PermissionDeniedError, RateLimitedError
from registry.strict_yaml import load_strict

NOW = 1_000.0


def test_the_shipped_file_says_what_is_built_in():
    path = Path(policies.__file__).parent / "access.yaml"
    assert load_strict(path.read_text("utf-8"), AccessPolicy, str(path)) == AccessPolicy()


def test_tenants_have_their_own_terms_or_the_default_ones():
    policy = load_strict(
        "default: {content_mode: none}\ntenants: [{name: shop, content_mode: hash}]", AccessPolicy, "f"
    )
    assert policy.tenant("shop").content_mode == "hash"
    assert (policy.tenant("other").content_mode, policy.tenant("other").name) == ("none", "other")
    with pytest.raises(ConfigError, match="listed twice"):
        load_strict("tenants: [{name: a}, {name: a}]", AccessPolicy, "f")


def test_models_are_allowed_by_name_or_beginning():
    key = Tenant(name="t", allowed_models=("auto", "smol*"))
    assert may_use_model(key, "auto") and may_use_model(key, "smollm2-135m")
    assert not may_use_model(key, "gpt") and not may_use_model(key, "auto2")
    assert may_use_model(Tenant(name="t"), "anything")
    assert not may_use_model(Tenant(name="t", allowed_models=()), "auto")
    with pytest.raises(PermissionDeniedError, match="Allowed: `auto`") as caught:
        Tenant(name="shop", allowed_models=("auto",)).check_model("gpt")
    assert caught.value.param == "model"


def test_a_tenant_keeps_to_its_tiers():
    own = Tenant(name="t", user_tier="free")
    assert tier_for(own, None) == "free"
    assert tier_for(own, "free") == "free"
    with pytest.raises(PermissionDeniedError, match="Allowed: `free`"):
        tier_for(own, "premium")
    assert tier_for(Tenant(name="t", user_tier="free", allowed_user_tiers=("premium",)), "premium") == "premium"
    assert tier_for(Tenant(name="t"), "any") == "any"
    assert tier_for(Tenant(name="t"), None) is None


def test_budgets_become_limits_of_the_ledger():
    tenant = Tenant(budget_usd_per_day=1.0, budget_usd_per_month=9.0)
    assert budget_limits(tenant) == (BudgetLimit(limit_usd=1.0), BudgetLimit(window="month", limit_usd=9.0))


def test_a_bucket_gives_its_burst_then_its_rate():
    bucket = TokenBucket(60)
    assert [bucket.take(1, NOW) for _ in range(60)] == [0.0] * 60
    assert bucket.take(1, NOW) == pytest.approx(1.0)
    assert bucket.take(1, NOW + 0.5) == pytest.approx(0.5)
    assert bucket.take(1, NOW + 1.0) == 0.0
    assert bucket.take(60, NOW + 1.0) == pytest.approx(60.0)
    assert bucket.take(1, NOW - 500) > 0, "a clock that steps back gives nothing"


def test_waiting_as_long_as_it_says_is_enough():
    bucket = TokenBucket(7, burst=3)
    now = NOW
    for amount in (3, 2.5, 1, 3, 0.1):
        now += bucket.wait_s(amount, now)
        assert bucket.take(amount, now) == 0.0


def test_more_than_the_burst_is_let_through_once_and_owed():
    bucket = TokenBucket(60)
    assert bucket.take(120, NOW) == 0.0
    assert bucket.take(1, NOW) == pytest.approx(61.0)


def test_what_was_not_used_comes_back():
    bucket = TokenBucket(60)
    bucket.take(60, NOW)
    bucket.give_back(10)
    assert bucket.take(10, NOW) == 0.0


def test_every_owner_has_its_own_limits_and_nobody_pays_for_a_refusal():
    limiter = RateLimiter()
    key, tenant = Tenant(name="k", requests_per_minute=2), Tenant(name="t", tokens_per_minute=100)
    limiter.admit((key, tenant), 60, NOW)
    with pytest.raises(RateLimitedError, match="The tenant `t` may use 100 tokens a minute") as caught:
        limiter.admit((key, tenant), 60, NOW)
    assert caught.value.retry_after_s == pytest.approx(12.0)
    limiter.correct((key, tenant), 20)
    limiter.admit((key, tenant), 60, NOW)
    with pytest.raises(RateLimitedError, match="The tenant `k` may use 2 requests"):
        limiter.admit((key, tenant), 0, NOW)
