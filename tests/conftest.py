"""What all tests stand on."""

from __future__ import annotations

import os
import signal

import hypothesis

# How long an example takes says what else runs here. The same examples everywhere: what fails, fails for everybody;
# others are looked for with `--hypothesis-profile anew` (script/soak properties).
hypothesis.settings.register_profile("godwit", deadline=None, derandomize=True)
hypothesis.settings.register_profile("anew", deadline=None, derandomize=False)
hypothesis.settings.load_profile("godwit")


def pytest_xdist_auto_num_workers() -> int:
    """Have some more workers than cores: a third of the plain tests' time is spent waiting for a clock."""
    return max(2, (os.cpu_count() or 1) * 3 // 2)


def pytest_configure() -> None:
    """Hear Ctrl-C, whoever started us: what a shell starts in the background ignores it, and so do its children."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
