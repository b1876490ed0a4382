"""Keys and times in, yes or no out: no more than the rate for one, nor than the total for all."""

from __future__ import annotations

from probe.limits import RateLimit

SECOND = 1_000_000_000


def allowed(limit: RateLimit, key: bytes, times: range) -> int:
    return sum(limit.allows(key, now) for now in times)


def test_a_rate_is_kept_over_time_and_a_quarter_second_may_come_at_once() -> None:
    limit = RateLimit(1000, 1_000_000)
    assert allowed(limit, b"a", range(SECOND, SECOND + 10_000)) == 250
    # Twice as fast as allowed for ten seconds: half of it passes.
    assert allowed(limit, b"a", range(2 * SECOND, 12 * SECOND, SECOND // 2000)) == 10_000 + 249
    # At its rate everything passes.
    assert allowed(limit, b"a", range(20 * SECOND, 22 * SECOND, SECOND // 1000)) == 2000


def test_a_low_rate_lets_a_few_pass_at_once() -> None:
    limit = RateLimit(1, 1000)
    assert allowed(limit, b"a", range(SECOND, SECOND + 100)) == RateLimit.LEAST
    assert not limit.allows(b"a", 2 * SECOND - 1)
    assert limit.allows(b"a", 2 * SECOND)
    assert not limit.allows(b"a", 2 * SECOND)


def test_one_key_does_not_use_up_anothers_rate_but_all_share_the_total() -> None:
    limit = RateLimit(100, 200)
    keys = [bytes([n]) for n in range(4)]
    assert [allowed(limit, key, range(SECOND, SECOND + 1000)) for key in keys] == [25, 25, 0, 0]
    # What the total refused did not count against the key.
    assert allowed(limit, keys[2], range(5 * SECOND, 5 * SECOND + 1000)) == 25


def test_memory_is_bounded_and_the_idle_are_forgotten_first() -> None:
    limit = RateLimit(10, 10_000_000, keys=100)
    busy = b"busy"
    assert allowed(limit, busy, range(SECOND, SECOND + 100)) == 16
    for n in range(1000):
        assert limit.allows(n.to_bytes(4, "big"), SECOND)
        assert len(limit) <= 100
        if n % 50 == 0:
            assert not limit.allows(busy, SECOND)
    assert not limit.allows(busy, SECOND)
    # The first of the others has been forgotten, and so has a full bucket again.
    assert allowed(limit, bytes(4), range(SECOND, SECOND + 100)) == 16
