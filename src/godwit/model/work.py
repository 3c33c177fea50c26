"""What guests take of their hosts: counters that only grow, as the kernel keeps them of a guest's process."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ThreadWork:
    """One thread of a guest's process: the seconds for which it `ran`, and for which it waited for a processor.

    `waited` is the time in which it could have run and did not, since others had the processors (the run delay of
    schedstat); None where the kernel does not count it.
    """

    id: int
    ran: float
    waited: float | None


@dataclass(frozen=True, slots=True)
class GuestWork:
    """What the process of the guest `vm` has taken since it was started.

    `disk` is the bytes that it read from and wrote to storage, `network` the bytes that went through its taps both
    ways; None where that cannot be seen. Where threads cannot be told apart, all of them are one, with the id 0.
    """

    vm: str
    pid: int
    threads: tuple[ThreadWork, ...]
    disk: int | None = None
    network: int | None = None


@dataclass(frozen=True, slots=True)
class HostWork:
    """What some guests of a host had taken at the instant `at`, in seconds on that host's clock.

    A guest that does not run there is absent.
    """

    at: float
    guests: tuple[GuestWork, ...] = ()
