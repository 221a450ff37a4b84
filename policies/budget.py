"""Who may still spend what: money is reserved before a call and settled after it, by account, day and month.

An account's spending passes its limit by at most what calls cost beyond their own reservations, which hold the most
that a call can cost. Windows are UTC days and months. Synchronous and in memory; the caller brings the
clock and, at start, what was spent before (`charge`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

from registry.errors import BudgetExceededError

from .constraints import dollars

Window = Literal["day", "month"]


class BudgetLimit(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The most that an account may spend within a window."""

    window: Window = "day"
    limit_usd: Annotated[float, Meta(ge=0)]


class Reservation(Struct, frozen=True):
    """Money set aside for one call. Settle or release it exactly once; a second time changes nothing."""

    number: int
    accounts: tuple[str, ...]
    amount_usd: float
    made_ms: int


class _Purse(Struct):
    """One account's window: what is spent for good, and what is set aside."""

    window_id: str
    spent_usd: float = 0.0
    reserved_usd: float = 0.0


class Ledger:
    """What every account has spent and reserved. Accounts without limits are not kept."""

    def __init__(self, limits: Mapping[str, Iterable[BudgetLimit]] | None = None) -> None:
        self._limits: dict[str, tuple[BudgetLimit, ...]] = {}
        self._purses: dict[tuple[str, Window], _Purse] = {}
        self._open: dict[int, Reservation] = {}
        self._next = 0
        for account, given in (limits or {}).items():
            self.set_limits(account, given)

    def set_limits(self, account: str, limits: Iterable[BudgetLimit]) -> None:
        """Replace an account's limits; what it has spent in windows that it keeps stays."""
        self._limits[account] = tuple(limits)

    def reserve(self, account: str | tuple[str, ...], amount_usd: float, now_ms: int) -> Reservation:
        """Set money aside, from all of the accounts or from none.

        Raises BudgetExceededError naming the account, the window and what is left; ValueError for an amount that is
        negative or not finite.
        """
        accounts = (account,) if isinstance(account, str) else account
        if not 0 <= amount_usd < float("inf"):
            raise ValueError(f"cannot reserve {amount_usd}: amounts are finite and not negative")
        purses = [(name, limit, self._purse(name, limit.window, now_ms)) for name, limit in self._limits_of(accounts)]
        for name, limit, purse in purses:
            if purse.spent_usd + purse.reserved_usd + amount_usd > limit.limit_usd:
                raise BudgetExceededError(_refusal(name, limit, purse, amount_usd, now_ms))
        for _, _, purse in purses:
            purse.reserved_usd += amount_usd
        self._next += 1
        reservation = Reservation(self._next, accounts, amount_usd, now_ms)
        self._open[reservation.number] = reservation
        return reservation

    def settle(self, reservation: Reservation, actual_usd: float) -> None:
        """Turn a reservation into what the call really cost, in the windows in which it was made."""
        if self._open.pop(reservation.number, None) is None:
            return
        for purse in self._purses_at(reservation.accounts, reservation.made_ms):
            purse.reserved_usd = max(0.0, purse.reserved_usd - reservation.amount_usd)
            purse.spent_usd += max(0.0, actual_usd)

    def release(self, reservation: Reservation) -> None:
        """Give a reservation back: the call cost nothing."""
        self.settle(reservation, 0.0)

    def charge(self, account: str, amount_usd: float, at_ms: int, now_ms: int) -> None:
        """Count money that was spent without a reservation: before a restart. Past windows are left out."""
        for limit in self._limits.get(account, ()):
            if window_id(limit.window, at_ms) == window_id(limit.window, now_ms):
                self._purse(account, limit.window, now_ms).spent_usd += max(0.0, amount_usd)

    def spent_usd(self, account: str, window: Window, now_ms: int) -> float:
        """Return what the account has spent in the current window; 0 when it has no such limit."""
        purse = self._purses.get((account, window))
        return purse.spent_usd if purse is not None and purse.window_id == window_id(window, now_ms) else 0.0

    def left_usd(self, account: str | tuple[str, ...], now_ms: int) -> float:
        """Return how much could be reserved now; infinity without limits."""
        accounts = (account,) if isinstance(account, str) else account
        left = float("inf")
        for name, limit in self._limits_of(accounts):
            purse = self._purse(name, limit.window, now_ms)
            left = min(left, limit.limit_usd - purse.spent_usd - purse.reserved_usd)
        return max(0.0, left)

    def _limits_of(self, accounts: tuple[str, ...]) -> Iterable[tuple[str, BudgetLimit]]:
        return ((name, limit) for name in accounts for limit in self._limits.get(name, ()))

    def _purse(self, account: str, window: Window, now_ms: int) -> _Purse:
        """The purse of the current window; an older one is replaced. A clock that steps back keeps the newer one."""
        current = window_id(window, now_ms)
        purse = self._purses.get((account, window))
        if purse is None or purse.window_id < current:
            purse = self._purses[(account, window)] = _Purse(current)
        return purse

    def _purses_at(self, accounts: tuple[str, ...], at_ms: int) -> Iterable[_Purse]:
        """The purses whose window holds the moment; those of past windows are gone and left out."""
        for name, limit in self._limits_of(accounts):
            purse = self._purses.get((name, limit.window))
            if purse is not None and purse.window_id == window_id(limit.window, at_ms):
                yield purse


def window_id(window: Window, at_ms: int) -> str:
    """Return the window that holds the moment: `2026-11-21` or `2026-11`, in UTC."""
    day = datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat()
    return day if window == "day" else day[:7]


def _refusal(account: str, limit: BudgetLimit, purse: _Purse, amount_usd: float, now_ms: int) -> str:
    left = max(0.0, limit.limit_usd - purse.spent_usd - purse.reserved_usd)
    return (
        f"The budget of `{account}` for this {limit.window} ({window_id(limit.window, now_ms)}, UTC) is "
        f"{dollars(limit.limit_usd)}; {dollars(left)} is left, and this call may cost up to {dollars(amount_usd)}."
    )
