"""Places are limited, waiting is limited, turns come in order, and nothing idle is remembered."""

from twisted.internet.defer import CancelledError

from mailhub.queue.limits import Limits


def test_places_and_turns() -> None:
    limits = Limits(per_destination_max=2, waiting_max=2)
    assert [limits.enter("a") for _ in range(3)] == [True, True, False]
    assert limits.enter("b")
    first, second = limits.wait("a"), limits.wait("a")
    assert first is not None
    assert second is not None
    assert limits.wait("a") is None
    limits.leave("a")
    assert (first.called, second.called) == (True, False)
    assert limits.taken("a") == 2
    for _ in range(3):
        limits.leave("a")
    assert second.called
    assert limits.taken("a") == 0
    limits.leave("b")
    assert limits.taken("b") == 0
    assert not limits._waiting


def test_who_ceases_to_wait_loses_his_turn() -> None:
    limits = Limits(per_destination_max=1, waiting_max=2)
    limits.enter("a")
    first, second = limits.wait("a"), limits.wait("a")
    assert first is not None
    assert second is not None
    first.addErrback(lambda failure: failure.trap(CancelledError))
    first.cancel()
    limits.leave("a")
    assert second.called
    assert limits.taken("a") == 1
