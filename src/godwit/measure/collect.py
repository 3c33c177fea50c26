"""From the prober's lines to a series. Pure: the driver feeds lines, this keeps columns."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

import numpy as np

from godwit.core.clocks import SAME_CLOCK, ClockOffset
from godwit.measure.gaps import noticeable_gaps
from godwit.measure.series import Earlier, ProbeSeries
from godwit.plaintext import from_json, one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT_VERSION = 1
KEPT_ROWS = 50_000  # 100 s at 500 a second; up to twice as many are in memory
KEPT_GAPS = 200
_MOST_NOTES = 100
_LONGEST_WORDS = 500
_LARGEST = 1 << 62
_DAY_US = 86_400_000_000


class Collector:
    """Takes the lines of one prober in order; ``series()`` can be asked for at any time after the header."""

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self.header: dict[str, Any] | None = None
        self.end: dict[str, Any] | None = None
        self.ready = False
        self.offset: ClockOffset = SAME_CLOCK
        self.last_answered_sent_s = -np.inf
        self._numbers = array("q")
        self._sent_us = array("q")
        self._rtt_us = array("d")
        self._lag_us = array("d")
        self._clocks: list[tuple[int, int]] = []
        self._notes: list[str] = []
        self._earlier: Earlier | None = None

    def feed(self, line: bytes) -> dict[str, Any]:
        """Take one line and give the message in it; ValueError when it is none of a prober of this version."""
        message = from_json(line)
        if not isinstance(message, dict) or not isinstance(message.get("t"), str):
            text = f"not a prober's line: {line[:80]!r}"
            raise ValueError(text)  # noqa: TRY004 - whoever feeds lines knows one kind of error
        try:
            self._take(message, message["t"])
        except (KeyError, TypeError, OverflowError, IndexError) as error:
            text = f"a prober's line that cannot be meant: {line[:80]!r} ({type(error).__name__})"
            raise ValueError(text) from None
        return message

    def _take(self, message: dict[str, Any], kind: str) -> None:
        if kind == "header":
            if message["version"] != FORMAT_VERSION:
                text = f"a prober of version {message['version']}, this reads {FORMAT_VERSION}"
                raise ValueError(text)
            self.header = _checked_header(message)
        elif kind == "rows":
            self._take_rows(message["rows"])
        elif kind == "ready":
            self.ready = True
        elif kind == "note":
            if len(self._notes) < _MOST_NOTES:
                self._notes.append(one_line(str(message["text"]), _LONGEST_WORDS))
        elif kind == "end":
            self.end = _checked_end(message)
        if "real_ns" in message:
            self._clocks.append((_whole(message["mono_us"]), _whole(message["real_ns"])))

    def wall_s(self, mono_us: float) -> float:
        """Put an instant of the prober on the controller's clock, UNIX seconds, by the nearest clock readings."""
        return float(self._wall_s(np.asarray([mono_us], dtype=np.float64))[0])

    def series(self) -> ProbeSeries:
        """Give what was seen so far, in the order of sending; ValueError before the header."""
        if self.header is None:
            message = "the prober has not said yet what it does"
            raise ValueError(message)
        self._sort()
        sent_s = self._wall_s(np.asarray(self._sent_us, dtype=np.float64))
        end = self.end or {}
        # A client that no longer asks does not wait: the moment spent on late replies is no gap.
        last_us = float(end.get("asked_until_us", end.get("mono_us", max([self._clocks[-1][0], *self._sent_us[-1:]]))))
        return ProbeSeries(
            kind=self.header["kind"],
            method=self.header["method"],
            address=_address(self.header),
            interval_s=self.header["interval_us"] / 1e6,
            sent_s=sent_s,
            rtt_s=np.asarray(self._rtt_us, dtype=np.float64) / 1e6,
            lag_s=np.asarray(self._lag_us, dtype=np.float64) / 1e6,
            started_s=float(sent_s[0]) if self._earlier else self.wall_s(0),
            ended_s=self.wall_s(last_us),
            errors=dict(end.get("errors", {})),
            reconnects=int(end.get("reconnects", 0)),
            skipped=int(end.get("skipped", 0)),
            vantage=self.header["vantage"],
            scheduling=self.header["scheduling"],
            clock_offset_s=self.offset.offset_s,
            clock_uncertainty_s=self.offset.uncertainty_s,
            notes=tuple(self._notes),
            earlier=self._earlier,
        )

    def _sort(self) -> None:
        """Put the columns in the order of sending: a row comes when its request was answered, or given up."""
        order = np.argsort(np.asarray(self._numbers, dtype=np.int64), kind="stable")
        self._keep_rows(order)

    def _keep_rows(self, rows: NDArray[np.int64]) -> None:
        """Keep these rows, in this order."""
        whole, fractions = np.int64, np.float64
        self._numbers = array("q", np.asarray(self._numbers, dtype=whole)[rows].tobytes())
        self._sent_us = array("q", np.asarray(self._sent_us, dtype=whole)[rows].tobytes())
        self._rtt_us = array("d", np.asarray(self._rtt_us, dtype=fractions)[rows].tobytes())
        self._lag_us = array("d", np.asarray(self._lag_us, dtype=fractions)[rows].tobytes())

    def _roll_up(self) -> None:
        """Leave of the oldest rows how many there were and their longest gaps: a probe may run for days.

        The last of them that was answered stays, for the gap to the next reply begins with it; where none was, the
        first one does.
        """
        whole = self.series()  # which puts the rows in order
        cut = len(self._numbers) - KEPT_ROWS
        answered = np.flatnonzero(whole.answered[:cut])
        stays = int(answered[-1]) if len(answered) else 0
        gone = noticeable_gaps(whole.until(stays + 1)) if len(answered) else ()
        before = self._earlier or Earlier(whole.started_s)
        gaps = [*before.gaps, *((gap.start_s, gap.end_s, gap.lost, gap.lag_max_s) for gap in gone)]
        longest = sorted(sorted(gaps, key=lambda gap: gap[0] - gap[1])[:KEPT_GAPS])
        lost = cut - len(answered) - (not len(answered))
        self._keep_rows(np.asarray([stays, *range(cut, len(self._numbers))], dtype=np.int64))
        self._earlier = Earlier(before.since_s, before.sent + cut - 1, before.lost + lost, tuple(longest))
        older = sum(mono <= self._sent_us[0] for mono, _ in self._clocks)
        del self._clocks[: max(0, older - 1)]

    def _take_rows(self, rows: list[list[int | None]]) -> None:
        for number, sent_us, rtt_us, lag_us in rows:
            rtt, lag = (np.nan if one is None else _figure(one) for one in (rtt_us, lag_us))
            numbers = _whole(number), _whole(sent_us)
            self._numbers.append(numbers[0])
            self._sent_us.append(numbers[1])
            self._rtt_us.append(rtt)
            self._lag_us.append(lag)
        if not self._clocks:
            text = "requests before the header"
            raise ValueError(text)
        if len(self._numbers) > 2 * KEPT_ROWS:
            self._roll_up()
        answered = [sent_us for _, sent_us, rtt_us, _ in rows if sent_us is not None and rtt_us is not None]
        if answered:
            self.last_answered_sent_s = max(self.last_answered_sent_s, self.wall_s(max(answered)))

    def _wall_s(self, mono_us: NDArray[np.float64]) -> NDArray[np.float64]:
        """Interpolate between clock readings, so that a wall clock which is being slewed is followed."""
        known_us = np.asarray([mono for mono, _ in self._clocks], dtype=np.float64)
        base_ns = self._clocks[0][1]
        ahead_us = np.asarray([(wall - base_ns) / 1e3 - mono for mono, wall in self._clocks], dtype=np.float64)
        wall_us = mono_us + np.interp(mono_us, known_us, ahead_us)
        return base_ns / 1e9 + wall_us / 1e6 - self.offset.offset_s


def _checked_header(message: dict[str, Any]) -> dict[str, Any]:
    """Return a header whose figures are figures and whose words are short; ValueError, KeyError, TypeError."""
    _whole(message["real_ns"])
    _whole(message["mono_us"])
    _whole(message["port"])
    if not 0 < _whole(message["interval_us"]) < _DAY_US:
        text = f"an interval of {message['interval_us']} us"
        raise ValueError(text)
    words = ("kind", "method", "host", "vantage", "scheduling")
    return message | {name: one_line(str(message[name]), _LONGEST_WORDS) for name in words}


def _checked_end(message: dict[str, Any]) -> dict[str, Any]:
    """Return totals whose figures are figures; ValueError, KeyError, TypeError."""
    errors = message.get("errors", {})
    if not isinstance(errors, dict) or len(errors) > _MOST_NOTES:
        text = "no list of errors"
        raise ValueError(text)
    figures = ("asked_until_us", "mono_us", "reconnects", "skipped")
    checked = {name: _whole(message[name]) for name in figures if name in message}
    counted = {one_line(str(name), _LONGEST_WORDS): _whole(count) for name, count in errors.items()}
    reason = one_line(str(message.get("reason", "")), _LONGEST_WORDS)
    return {**message, **checked, "errors": counted, "reason": reason}


def _whole(value: object) -> int:
    """Return a whole number that 64 bits hold; ValueError for anything else."""
    figure = _figure(value)
    if isinstance(figure, int):
        return figure
    text = f"{figure} is no whole number"
    raise ValueError(text)


def _figure(value: object) -> float:
    """Return a number that a count or an instant can be; ValueError for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST < value < _LARGEST:
        return value
    text = f"{value!r:.40} is no figure"
    raise ValueError(text)


def _address(header: dict[str, Any]) -> str:
    """Write the address as it was asked for."""
    if header["kind"] == "icmp":
        return str(header["host"])
    host = f"[{header['host']}]" if ":" in header["host"] else header["host"]
    return f"{header['kind']}://{host}:{header['port']}"
