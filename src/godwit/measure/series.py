"""What a probe saw, as columns: the value that the probe returns, the journal keeps and the figures are made from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

FORMAT_VERSION = 1
UNANSWERED = -1


@dataclass(frozen=True, slots=True)
class Earlier:
    """What is left of the beginning of a long series: how many were asked and lost since when, and its longest gaps.

    A gap is its first and last instant (UNIX seconds), the requests lost in it, and the probe's own worst lateness.
    """

    since_s: float
    sent: int = 0
    lost: int = 0
    gaps: tuple[tuple[float, float, int, float], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class ProbeSeries:
    """A run of the outside probe. Arrays have one element a request, all of shape (n,), in the order of sending.

    ``sent_s``    float64, UNIX seconds on the controller's clock
    ``rtt_s``     float64, seconds to the reply, NaN where none came
    ``lag_s``     float64, seconds by which the probe itself was late, NaN where it cannot know (system ping)

    ``ended_s`` is when the probe stopped. ``clock_offset_s`` is what was taken off the vantage point's clock to get
    there, ``clock_uncertainty_s`` how sure that is. ``errors`` counts resets, refusals, wrong values, by name.
    ``earlier`` is there where the probe ran for long: the columns, and ``started_s``, are of its last part then.
    """

    kind: str
    method: str
    address: str
    interval_s: float
    sent_s: NDArray[np.float64]
    rtt_s: NDArray[np.float64]
    lag_s: NDArray[np.float64]
    started_s: float
    ended_s: float
    errors: Mapping[str, int] = field(default_factory=dict)
    reconnects: int = 0
    skipped: int = 0
    vantage: str = ""
    scheduling: str = "normal"
    clock_offset_s: float = 0.0
    clock_uncertainty_s: float = 0.0
    notes: tuple[str, ...] = ()
    earlier: Earlier | None = None

    def __post_init__(self) -> None:
        """Refuse columns of different lengths (ValueError)."""
        if not len(self.sent_s) == len(self.rtt_s) == len(self.lag_s):
            message = f"columns differ: {len(self.sent_s)} sent, {len(self.rtt_s)} rtt, {len(self.lag_s)} lag"
            raise ValueError(message)

    @property
    def answered(self) -> NDArray[np.bool_]:
        """Which requests got a reply, shape (n,)."""
        return ~np.isnan(self.rtt_s)

    @property
    def lost(self) -> int:
        """How many requests got none, from the first on."""
        return int(np.count_nonzero(np.isnan(self.rtt_s))) + (self.earlier.lost if self.earlier else 0)

    @property
    def sent(self) -> int:
        """How many requests there were, from the first on."""
        return len(self.sent_s) + (self.earlier.sent if self.earlier else 0)

    @property
    def began_s(self) -> float:
        """When the probe began, UNIX seconds."""
        return self.earlier.since_s if self.earlier else self.started_s

    @property
    def replied_s(self) -> NDArray[np.float64]:
        """Instants of the replies, sorted, UNIX seconds, shape (answered,)."""
        mask = self.answered
        return np.sort(self.sent_s[mask] + self.rtt_s[mask])

    def between(self, start_s: float, end_s: float) -> ProbeSeries:
        """Keep only the requests sent in [start_s, end_s], to keep a journal or a plot small."""
        kept = (self.sent_s >= start_s) & (self.sent_s <= end_s)
        values = {name: getattr(self, name) for name in self.__slots__}
        for column in ("sent_s", "rtt_s", "lag_s"):
            values[column] = values[column][kept]
        values["started_s"] = max(start_s, self.started_s)
        values["ended_s"] = min(end_s, self.ended_s)
        values["earlier"] = None
        return ProbeSeries(**values)

    def until(self, end: int) -> ProbeSeries:
        """Keep only the first ``end`` requests, as if the probe had stopped at the last reply to one of them."""
        values = {name: getattr(self, name) for name in self.__slots__}
        for column in ("sent_s", "rtt_s", "lag_s"):
            values[column] = values[column][:end]
        replied = values["sent_s"] + np.nan_to_num(values["rtt_s"])
        values["ended_s"] = float(replied.max()) if end else self.started_s
        return ProbeSeries(**{**values, "earlier": None})

    def to_json(self) -> dict[str, Any]:
        """Give columns of small integers (microseconds, send instants as differences), for ``json.dumps``."""
        sent_us = np.rint((self.sent_s - self.started_s) * 1e6).astype(np.int64)
        scalars = ("kind", "method", "address", "interval_s", "started_s", "ended_s", "reconnects", "skipped")
        more = ("vantage", "scheduling", "clock_offset_s", "clock_uncertainty_s")
        return {
            "version": FORMAT_VERSION,
            **{name: getattr(self, name) for name in scalars + more},
            "errors": dict(self.errors),
            "notes": list(self.notes),
            "sent_step_us": np.diff(sent_us, prepend=0).tolist(),
            "rtt_us": _whole_us(self.rtt_s),
            "lag_us": _whole_us(self.lag_s),
            **({"earlier": _plain(self.earlier)} if self.earlier else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ProbeSeries:
        """Read what ``to_json`` gave; ValueError on another version, missing columns or figures that are none."""
        try:
            return cls._from_json(data)
        except (KeyError, TypeError, OverflowError) as error:
            message = f"a probe series that cannot be meant: {error!r:.80}"
            raise ValueError(message) from None

    @classmethod
    def _from_json(cls, data: Mapping[str, Any]) -> ProbeSeries:
        if data.get("version") != FORMAT_VERSION:
            message = f"probe series of version {data.get('version')!r}, this reads {FORMAT_VERSION}"
            raise ValueError(message)
        values = {key: value for key, value in data.items() if key in cls.__slots__}
        earlier = values.pop("earlier", None)
        for name, value in values.items():
            if not _fits(name, value):
                message = f"a probe series whose {name} is none"
                raise ValueError(message)
        steps, rtt, lag = data["sent_step_us"], data["rtt_us"], data["lag_us"]
        values["notes"] = tuple(data.get("notes", ()))
        values["earlier"] = None if earlier is None else _earlier(earlier)
        values["sent_s"] = data["started_s"] + np.cumsum(np.asarray(steps, dtype=np.int64)) / 1e6
        values["rtt_s"], values["lag_s"] = _seconds(rtt), _seconds(lag)
        return cls(**values)


_WORDS = frozenset({"kind", "method", "address", "vantage", "scheduling"})


def _fits(name: str, value: object) -> bool:
    """Say whether a value can be what its name says."""
    if name in _WORDS:
        return isinstance(value, str)
    if name == "errors":
        return isinstance(value, dict) and all(isinstance(one, int) for one in value.values())
    if name == "notes":
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    return isinstance(value, int | float) and math.isfinite(value)


def _plain(earlier: Earlier) -> dict[str, Any]:
    """Give it as JSON, which has no NaN."""
    gaps = [[start, end, lost, None if np.isnan(lag) else lag] for start, end, lost, lag in earlier.gaps]
    return {"since_s": earlier.since_s, "sent": earlier.sent, "lost": earlier.lost, "gaps": gaps}


def _earlier(data: Mapping[str, Any]) -> Earlier:
    """Undo ``_plain``; ValueError for what cannot be meant."""
    try:
        gaps = tuple(
            (float(start), float(end), int(lost), np.nan if lag is None else float(lag))
            for start, end, lost, lag in data["gaps"]
        )
        return Earlier(float(data["since_s"]), int(data["sent"]), int(data["lost"]), gaps)
    except (KeyError, TypeError) as error:
        message = f"a probe series whose beginning cannot be read ({type(error).__name__})"
        raise ValueError(message) from None


def _whole_us(seconds: NDArray[np.float64]) -> list[int]:
    """Round to microseconds, with -1 for NaN."""
    whole = np.where(np.isnan(seconds), UNANSWERED, np.rint(np.nan_to_num(seconds) * 1e6))
    return [int(value) for value in whole]


def _seconds(microseconds: Sequence[int]) -> NDArray[np.float64]:
    """Undo ``_whole_us``."""
    column = np.asarray(microseconds, dtype=np.float64)
    return np.where(column < 0, np.nan, column / 1e6)
