"""The outside probe itself: one file, standard library only, Python 3.9 or newer.

One file although it is a long one: whoever can run Python on a vantage point can pipe it there. In the order of the
sections below: the clock and the story that it writes, what can be asked, when it is asked, ping instead, the start.

Runs where the client of a guest would be: ``python3 prober.py ARGS``, ``python3 - ARGS < prober.py``, or sent over
SSH, so a vantage point needs nothing installed. It asks the guest every few milliseconds and writes what happened to
standard output, one JSON object a line, told apart by ``t``:

``header``  kind, method, address, interval and timeout, scheduling class, and the wall clock at monotonic instant 0
``rows``    ``[number, sent_us, rtt_us | null, lag_us | null]`` a request: send instant since 0, time to the reply
            (null: none came), and how late the loop was against its schedule, held-back slots included
``ready``   once, when the first reply came
``clock``   the wall clock again (``id`` when asked for by a ``clock ID`` line on standard input)
``event``   a reset, a reconnect, a refusal, with its instant
``note``    something the reader should know, such as a fallback
``end``     totals and the reason for the end; nothing follows

Instants are CLOCK_MONOTONIC_RAW, which no time daemon bends; each wall clock reading comes with its monotonic
instant. Nothing is subtracted from any figure: the probe's own lateness stands beside it in ``lag_us``.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from typing import Union

Waitable = Union[int, socket.socket]  # noqa: UP007 - evaluated at run time, on 3.9 too

FORMAT_VERSION = 1
CONNECTION_KINDS = ("tcp", "http", "redis")
DEFAULT_INTERVAL_MS = {"icmp": 2.0, "tcp-connect": 50.0, "tcp": 2.0, "http": 2.0, "redis": 2.0}
DEFAULT_TIMEOUT_MS = {"icmp": 2000.0, "tcp-connect": 1000.0, "tcp": 15000.0, "http": 15000.0, "redis": 15000.0}
DEFAULT_PORT = {"http": 80, "redis": 6379}
MAX_PENDING_CONNECTS = 500  # select() takes file descriptors below 1024
RECONNECT_PAUSE_NS = 50_000_000
END_GRACE_NS = 250_000_000
OVERTAKEN_NS = 20_000_000
SILENCE_NS = 20_000_000
NEWS_NS = 100_000_000  # after a silence somebody waits to hear that the guest answers again: rows go out sooner
NEWS_FLUSH_NS = 10_000_000
CLOCK_EVERY_NS = 1_000_000_000
ECHO_BYTES = 24  # ICMP header, token, number
PIPE_CHUNK = 4096  # a pipe that select() calls writable takes this much without blocking
SO_TIMESTAMPNS = 35  # asm-generic/socket.h; the kernel's own instant of arrival
SILENCE_PARTS = 20  # how much of a silence may go by before it is asked again
LONGEST_PAUSE_NS = 100_000_000
EVENT_PAUSE_NS = 100_000_000  # the same trouble is counted every time and told ten times a second at most


# -- the clock, and the story ------------------------------------------------------------------------------------------


def monotonic_ns() -> int:
    """Read the clock that no time daemon slews, in ns."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)


def clock_pair() -> tuple[int, int]:
    """Read both clocks as one: (monotonic ns, wall ns), the tightest of five brackets."""
    best = (1 << 62, 0, 0)
    for _ in range(5):
        before = monotonic_ns()
        wall = time.time_ns()
        after = monotonic_ns()
        best = min(best, (after - before, (before + after) // 2, wall))
    return best[1], best[2]


class Output:
    """Standard output that is written in batches and never blocks the probe's loop."""

    def __init__(self, flush_ns: int) -> None:
        """Open the story with instant 0, now."""
        self.start_ns, self.wall_ns = clock_pair()
        self._flush_ns = flush_ns
        self._rows: list[list[int | None]] = []
        self._pending = bytearray()
        self.due_ns = self.start_ns + flush_ns
        self._clock_ns = self.start_ns + CLOCK_EVERY_NS

    def since_start_us(self, instant_ns: int) -> int:
        """Turn a monotonic instant into microseconds since instant 0."""
        return (instant_ns - self.start_ns) // 1000

    def say(self, t: str, /, **fields: object) -> None:
        """Queue one message."""
        self._pending += json.dumps({"t": t, **fields}, separators=(",", ":")).encode() + b"\n"

    def row(self, number: int, sent_ns: int, rtt_ns: int | None, lag_ns: int | None) -> None:
        """Queue the outcome of one request."""
        rtt_us = None if rtt_ns is None else rtt_ns // 1000
        lag_us = None if lag_ns is None else lag_ns // 1000
        self._rows.append([number, self.since_start_us(sent_ns), rtt_us, lag_us])

    def clock(self, identity: str | None = None) -> None:
        """Queue the wall clock, for drift and for the offset against another machine."""
        instant, wall = clock_pair()
        asked = {} if identity is None else {"id": identity}
        self.say("clock", mono_us=self.since_start_us(instant), real_ns=wall, **asked)

    def pump(self, now_ns: int) -> None:
        """Once a batch is due, write what the reader takes without making the probe wait."""
        if now_ns < self.due_ns:
            return
        self.due_ns = now_ns + self._flush_ns
        if now_ns >= self._clock_ns:
            self._clock_ns = now_ns + CLOCK_EVERY_NS
            self.clock()
        self._collect()
        while self._pending and select.select([], [1], [], 0)[1]:
            del self._pending[: os.write(1, self._pending[:PIPE_CHUNK])]

    def end(self, **totals: object) -> None:
        """Write all that is left and the totals, waiting for the reader if need be."""
        self._collect()
        instant, wall = clock_pair()
        self.say("end", mono_us=self.since_start_us(instant), real_ns=wall, **totals)
        while self._pending:
            del self._pending[: os.write(1, self._pending)]

    def _collect(self) -> None:
        if self._rows:
            rows, self._rows = self._rows, []
            self.say("rows", rows=rows)


# -- what can be asked -------------------------------------------------------------------------------------------------


class Client:
    """What the loop needs of a kind of request; ``errors`` counts what went wrong, by name."""

    method = ""
    stamped = False  # arrivals are stamped by the kernel, so they need not be fetched at once

    def __init__(self, out: Output) -> None:
        """Keep the way to tell of resets and reconnects."""
        self.out = out
        self.errors: Counter[str] = Counter()
        self.reconnects = 0
        self.reads: list[socket.socket] = []
        self.writes: list[socket.socket] = []
        self.dropped: list[int] = []
        self._told_ns: dict[str, int] = {}

    def can_send(self, now_ns: int) -> bool:
        """Whether a request may go out now."""
        return now_ns >= 0

    def send(self, number: int) -> None:
        """Send one request; OSError counts as a lost one."""
        raise NotImplementedError

    def replies(self, readable: list[socket.socket], writable: list[socket.socket]) -> list[tuple[int, int]]:
        """Take what came: (number, instant of arrival) for every reply."""
        raise NotImplementedError

    def expire(self, number: int) -> None:
        """Forget a request that went unanswered for too long."""

    def trouble(self, what: str, detail: str = "") -> None:
        """Count an error and tell of it with its instant."""
        self.errors[what] += 1
        now = monotonic_ns()
        if now >= self._told_ns.get(what, 0):
            self._told_ns[what] = now + EVENT_PAUSE_NS
            self.out.say("event", mono_us=self.out.since_start_us(now), what=what, detail=detail)


def checksum(data: bytes) -> int:
    """Internet checksum (RFC 1071) over data of even length."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return int(~(total + (total >> 16)) & 0xFFFF)


class IcmpClient(Client):
    """Echo requests over an unprivileged datagram socket, or a raw one; arrivals stamped by the kernel."""

    stamped = True

    def __init__(self, out: Output, family: int, address: str) -> None:
        """Open the socket; PermissionError when neither kind is allowed."""
        super().__init__(out)
        self._v6 = family == socket.AF_INET6
        protocol = socket.IPPROTO_ICMPV6 if self._v6 else socket.IPPROTO_ICMP
        try:
            self._socket = socket.socket(family, socket.SOCK_DGRAM, protocol)
            self._raw, self.method = False, "icmp-datagram"
        except PermissionError:
            self._socket = socket.socket(family, socket.SOCK_RAW, protocol)
            self._raw, self.method = True, "icmp-raw"
        self._socket.settimeout(0)
        self._socket.connect((address, 0))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._identity = os.getpid() & 0xFFFF
        self._token = os.urandom(8)
        self._types = (128, 129) if self._v6 else (8, 0)
        self.reads = [self._socket]

    def send(self, number: int) -> None:
        """Send one echo request; the number rides in the payload, so the 16-bit sequence may wrap."""
        body = self._token + struct.pack("!Q", number) + bytes(40)
        head = struct.pack("!BBHHH", self._types[0], 0, 0, self._identity, number & 0xFFFF)
        if self._raw and not self._v6:
            head = struct.pack("!BBHHH", 8, 0, checksum(head + body), self._identity, number & 0xFFFF)
        self._socket.send(head + body)

    def replies(self, readable: list[socket.socket], writable: list[socket.socket]) -> list[tuple[int, int]]:
        """Drain the socket; what is not an answer to this very probe is passed over."""
        del readable, writable
        found: list[tuple[int, int]] = []
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(2048, 256)
            except BlockingIOError:
                break
            except OSError as error:  # an ICMP error for an earlier request: told, and the probe goes on
                self.trouble("unreachable", str(error))
                continue
            arrived = self._arrival(ancillary)
            if self._raw and not self._v6:
                data = data[(data[0] & 15) * 4 :]
            if len(data) >= ECHO_BYTES and data[0] == self._types[1] and data[8:16] == self._token:
                found.append((int.from_bytes(data[16:24], "big"), arrived))
        return found

    @staticmethod
    def _arrival(ancillary: list[tuple[int, int, bytes]]) -> int:
        """Put the kernel's instant of arrival on the monotonic clock; now where it gave none."""
        now = monotonic_ns()
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
                seconds, nanoseconds = struct.unpack("@ll", data[: struct.calcsize("@ll")])
                age = time.time_ns() - int(seconds) * 1_000_000_000 - int(nanoseconds)
                return now - max(0, age)
        return now


class ConnectClient(Client):
    """A new TCP connection for every request; the handshake is the reply, then it is reset (no TIME_WAIT)."""

    method = "tcp-connect"

    def __init__(self, out: Output, family: int, address: tuple[str, int]) -> None:
        """Keep where to connect to."""
        super().__init__(out)
        self._family, self._address = family, address
        self._numbers: dict[socket.socket, int] = {}

    def can_send(self, now_ns: int) -> bool:
        """Bounded, so that a silent guest is not met with a flood."""
        return now_ns >= 0 and len(self._numbers) < MAX_PENDING_CONNECTS

    def send(self, number: int) -> None:
        """Begin one handshake."""
        attempt = socket.socket(self._family, socket.SOCK_STREAM)
        attempt.settimeout(0)
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._numbers[attempt] = number
        self.writes.append(attempt)
        with contextlib.suppress(BlockingIOError):
            attempt.connect(self._address)

    def replies(self, readable: list[socket.socket], writable: list[socket.socket]) -> list[tuple[int, int]]:
        """Every finished handshake is a reply; a refused one is an error."""
        del readable
        found = []
        for attempt in writable:
            failure = attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            number = self._forget(attempt)
            if failure == 0:
                found.append((number, monotonic_ns()))
            else:
                self.trouble("refused", os.strerror(failure))
                self.dropped.append(number)
        return found

    def expire(self, number: int) -> None:
        """Give up one handshake."""
        for attempt in [one for one, owner in self._numbers.items() if owner == number]:
            self._forget(attempt)

    def _forget(self, attempt: socket.socket) -> int:
        self.writes.remove(attempt)
        attempt.close()
        return self._numbers.pop(attempt)


class StreamClient(Client):
    """One connection that stays open and one request at a time on it, as a plain client does."""

    def __init__(self, out: Output, family: int, address: tuple[str, int], talk: Talk) -> None:
        """Connect; a failure now is told and tried again like any later one."""
        super().__init__(out)
        self.method = talk.method
        self._family, self._address, self._talk = family, address, talk
        self._socket: socket.socket | None = None
        self._open = False
        self._number: int | None = None
        self._buffer = b""
        self._retry_ns = 0
        self._ever_open = False

    def can_send(self, now_ns: int) -> bool:
        """When connected and nothing is outstanding; connects anew, at most every 50 ms, when not."""
        if self._socket is None and now_ns >= self._retry_ns:
            self._retry_ns = now_ns + RECONNECT_PAUSE_NS
            self._socket = socket.socket(self._family, socket.SOCK_STREAM)
            self._socket.settimeout(0)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.writes = [self._socket]
            try:
                self._socket.connect(self._address)
            except BlockingIOError:
                return False
            except OSError as error:
                self._lose("refused", str(error))
        return self._open and self._number is None

    def send(self, number: int) -> None:
        """Send one request on the open connection."""
        if self._socket is None:
            raise OSError("no connection")  # noqa: EM101, TRY003
        self._number, self._buffer = number, b""
        try:
            self._socket.sendall(self._talk.request(number))
        except OSError as error:
            self._number = None
            self._lose("reset", str(error))
            raise

    def replies(self, readable: list[socket.socket], writable: list[socket.socket]) -> list[tuple[int, int]]:
        """Finish a connect, or read on until the reply is whole."""
        if self._socket in writable:
            self._connected()
        if self._socket is None or self._socket not in readable:
            return []
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return []
        except OSError as error:
            self._lose("reset", str(error))
            return []
        self._buffer += data
        whole, fault = self._talk.whole(self._buffer, ended=not data)
        number, arrived = self._number, monotonic_ns()
        if fault:
            self.trouble(fault, self._buffer[:80].decode("latin-1"))
        if whole:
            self._number = None
        if not data or (whole and self._talk.closes):
            self._lose("" if whole else "reset", "closed by the guest")
        return [(number, arrived)] if whole and number is not None else []

    def expire(self, number: int) -> None:
        """Give up, and tell of, a connection on which nothing moves any more."""
        if number == self._number:
            self._number = None
            self._lose("timeout", "no reply on an open connection")

    def _connected(self) -> None:
        if self._socket is None:
            return
        failure = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failure:
            self._lose("refused", os.strerror(failure))
            return
        if self._ever_open:
            self.reconnects += 1
        self._open = self._ever_open = True
        self.reads, self.writes = [self._socket], []

    def _lose(self, what: str, detail: str) -> None:
        """Drop the connection; without a name it ended as the protocol has it, and no pause is needed."""
        if what:
            self.trouble(what, detail)
        else:
            self._retry_ns = 0
        if self._number is not None:
            self.dropped.append(self._number)
        if self._socket is not None:
            self._socket.close()
        self._socket, self._open, self._number = None, False, None
        self.reads, self.writes, self._buffer = [], [], b""


class Talk:
    """The words on an open connection: a line that is echoed. Other protocols derive from it."""

    method = "tcp-echo"
    closes = False

    def request(self, number: int) -> bytes:
        """Give the bytes of one request."""
        return b"%d\n" % number

    def whole(self, buffer: bytes, *, ended: bool) -> tuple[bool, str]:
        """Whether the reply is whole, and the name of what is wrong with it, if anything."""
        del ended
        return buffer.endswith(b"\n"), ""


class HttpTalk(Talk):
    """GET on a connection that is kept if the server keeps it."""

    method = "http-get"

    def __init__(self, host: str, path: str) -> None:
        """Build the request once."""
        self._request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: godwit-probe\r\n\r\n".encode()

    def request(self, number: int) -> bytes:
        """Give the bytes of one request."""
        del number
        return self._request

    def whole(self, buffer: bytes, *, ended: bool) -> tuple[bool, str]:
        """End the reply by length, by the last chunk, or with the connection; a status of 5xx is an error."""
        head, found, body = buffer.partition(b"\r\n\r\n")
        if not found:
            return False, ""
        low = head.lower()
        length = re.search(rb"\r\ncontent-length: *(\d+)", low)
        if length:
            done = len(body) >= int(length.group(1))
        elif b"\r\ntransfer-encoding: chunked" in low:
            done = body.endswith(b"0\r\n\r\n")
        else:
            done = ended or re.match(rb"http/1\.\d (204|304)", low) is not None
        self.closes = b"\r\nconnection: close" in low or low.startswith(b"http/1.0")
        return done, "status-5xx" if done and re.match(rb"http/1\.\d 5", low) else ""


class RedisTalk(Talk):
    """PING, or SET and GET in turn, where a GET must give back what the SET before it stored."""

    method = "redis-ping"

    def __init__(self, *, store: bool) -> None:
        """Choose the commands; the key is this probe's own and expires."""
        self._store, self._expected = store, b"+PONG\r\n"
        self._key = b"godwit:probe:" + os.urandom(6).hex().encode()
        self._value = b""
        if store:
            self.method = "redis-set-get"

    def request(self, number: int) -> bytes:
        """Give the bytes of one request."""
        if not self._store:
            return b"*1\r\n$4\r\nPING\r\n"
        if number % 2 == 0 or not self._value:
            self._value, self._expected = b"%d" % number, b"+OK\r\n"
            return b"SET %s %s EX 60\r\n" % (self._key, self._value)
        self._expected = b"$%d\r\n%s\r\n" % (len(self._value), self._value)
        return b"GET %s\r\n" % self._key

    def whole(self, buffer: bytes, *, ended: bool) -> tuple[bool, str]:
        """End a reply with its line, a bulk string with its second; tell of error replies and wrong values."""
        del ended
        if not buffer.endswith(b"\r\n"):
            return False, ""
        if buffer.startswith(b"$") and not buffer.startswith(b"$-1") and buffer.count(b"\r\n") == 1:
            return False, ""
        if buffer.startswith(b"-"):
            return True, "error-reply"
        return True, "" if buffer == self._expected else "wrong-value"


# -- when it is asked --------------------------------------------------------------------------------------------------


def obey(out: Output) -> str:
    """Read standard input: ``clock ID`` asks for the clock; its end is the reason to end, which is given back."""
    data = os.read(0, 4096)
    for line in data.decode("ascii", "replace").splitlines():
        word, _, identity = line.partition(" ")
        if word == "clock":
            out.clock(identity)
            out.due_ns = 0
    return "" if data else "stdin closed"


class Loop:
    """Sends on an absolute schedule and takes replies between; the one place that decides when."""

    def __init__(self, client: Client, out: Output, args: argparse.Namespace) -> None:
        """Take the schedule from the arguments."""
        self._client, self._out = client, out
        self._interval_ns = int(args.interval_ms * 1e6)
        self._timeout_ns = int(args.timeout_ms * 1e6)
        self._end_ns = out.start_ns + int(args.duration_s * 1e9) if args.duration_s else 1 << 62
        self._inputs = [0] if args.watch_stdin else []
        self._slow = args.interval_ms > args.flush_ms
        self._outstanding: dict[int, tuple[int, int]] = {}
        self._number = self._replies = self._lost = self._skipped = self._lag_ns = self._lag_max_ns = 0
        self._last_reply_ns = self._news_until_ns = self._sent_ns = self._heard_ns = 0
        self._answered = -1
        self.reason = ""
        self._stopped_ns = 0

    def run(self) -> None:
        """Probe until told to stop, then wait a moment for what is still on its way."""
        slot = monotonic_ns()
        while not self.reason:
            now = monotonic_ns()
            if now >= slot:
                if self._client.stamped:
                    self._take([], [])
                slot += self._serve(slot, now) * self._interval_ns
                self._expire(now)
                if now >= self._end_ns:
                    self.reason = "duration"
            self._out.pump(now)
            self._wait(min(slot, self._out.due_ns) if self._slow else slot, now)
        self._stopped_ns = monotonic_ns()
        grace_ns = self._stopped_ns + min(self._timeout_ns, END_GRACE_NS)
        while self._outstanding and (now := monotonic_ns()) < grace_ns:
            if not self._expecting():
                grace_ns = min(grace_ns, now + OVERTAKEN_NS)
            self._wait(grace_ns, grace_ns)
        for number in list(self._outstanding):
            self._settle(number, None)
        self._tell_end()

    def _expecting(self) -> bool:
        """Whether a reply may still come to the latest request: those that it has overtaken have hardly any hope."""
        return bool(self._outstanding) and next(reversed(self._outstanding)) > self._answered

    def _serve(self, slot: int, now: int) -> int:
        """Send for this slot if the client is free; return how many slots have gone by."""
        self._lag_ns = max(self._lag_ns, now - slot)
        self._lag_max_ns = max(self._lag_max_ns, now - slot)
        gone_by = (now - slot) // self._interval_ns + 1
        if not self._client.can_send(now) or self._holds_back(now):
            return gone_by
        self._skipped += gone_by - 1
        sent, number = monotonic_ns(), self._number
        self._sent_ns = sent
        self._heard_ns = self._heard_ns or sent
        self._number += 1
        self._outstanding[number] = (sent, self._lag_ns)
        self._lag_ns = 0
        try:
            self._client.send(number)
        except OSError as error:
            self._client.trouble("not-sent", str(error))
            self._settle(number, None)
        return gone_by

    def _holds_back(self, now: int) -> bool:
        """Whether the guest has enough to answer.

        Else questions would pile up before one that is slow, and it would be judged by answers that their number made
        late. A gap is still known to within a twentieth of its length.
        """
        pause = min((now - self._heard_ns) // SILENCE_PARTS, LONGEST_PAUSE_NS)
        return bool(self._outstanding) and now - self._sent_ns < pause

    def _wait(self, until_ns: int, now: int) -> None:
        """Sleep until the next slot, or until something comes; take what came.

        While replies that the kernel stamps come steadily they are left until the next slot: half the wake-ups.
        """
        client = self._client
        waited: list[Waitable] = [*self._inputs]
        if not client.stamped or now - self._last_reply_ns > 3 * self._interval_ns:
            waited += client.reads
        timeout = max(0, until_ns - monotonic_ns()) / 1e9
        ready, writable, _ = select.select(waited, client.writes, [], timeout)
        if 0 in ready:
            self.reason = obey(self._out) or self.reason
        if ready or writable:
            self._take([one for one in ready if isinstance(one, socket.socket)], writable)

    def _take(self, readable: list[socket.socket], writable: list[socket.socket]) -> None:
        """Settle every request that was answered or given up."""
        for number, arrived in self._client.replies(readable, writable):
            self._settle(number, arrived)
        while self._client.dropped:
            self._settle(self._client.dropped.pop(), None)

    def _settle(self, number: int, arrived: int | None) -> None:
        """Record how one request ended; a second reply to it is no news."""
        sent, lag = self._outstanding.pop(number, (0, 0))
        if not sent:
            return
        if arrived is None:
            self._lost += 1
            self._out.row(number, sent, None, lag)
            return
        if self._replies == 0:
            self._out.say("ready", seq=number, mono_us=self._out.since_start_us(arrived))
        if arrived - self._last_reply_ns > max(SILENCE_NS, 5 * self._interval_ns):
            self._news_until_ns = arrived + NEWS_NS
            self._out.due_ns = 0
        elif arrived < self._news_until_ns:
            self._out.due_ns = min(self._out.due_ns, arrived + NEWS_FLUSH_NS)
        self._replies += 1
        self._last_reply_ns = arrived
        if number > self._answered:
            self._answered, self._heard_ns = number, sent
        self._out.row(number, sent, max(0, arrived - sent), lag)

    def _expire(self, now: int) -> None:
        """Count requests older than the timeout as lost; the oldest stand first."""
        while self._outstanding:
            number, (sent, _) = next(iter(self._outstanding.items()))
            if now - sent < self._timeout_ns:
                return
            self._client.expire(number)
            self._settle(number, None)

    def _tell_end(self) -> None:
        """Give totals, so that the reader can check what it was given."""
        self._out.end(
            reason=self.reason,
            sent=self._number,
            replies=self._replies,
            lost=self._lost,
            skipped=self._skipped,
            lag_max_us=self._lag_max_ns // 1000,
            errors=dict(self._client.errors),
            reconnects=self._client.reconnects,
            cpu_us=time.process_time_ns() // 1000,
            asked_until_us=self._out.since_start_us(self._stopped_ns),
        )


# -- ping instead ------------------------------------------------------------------------------------------------------


class PingCommand(Client):
    """The system's own ping, where no ICMP socket is allowed; its lateness cannot be known (``lag_us`` null)."""

    method = "ping-command"
    _ANSWER = re.compile(rb"^\[(\d+)\.(\d{6})\].*icmp_seq=(\d+) .*time=([\d.]+) ms")

    def __init__(self, out: Output, args: argparse.Namespace, address: str) -> None:
        """Start ping, which stamps each answer (-D)."""
        super().__init__(out)
        self.reason = ""
        argv = ["ping", "-n", "-D", "-i", f"{args.interval_ms / 1000:.3f}", "-W", "2", address]
        self._interval_ns = int(args.interval_ms * 1e6)
        self._end_ns = out.start_ns + int(args.duration_s * 1e9) if args.duration_s else 1 << 62
        self._inputs = [0] if args.watch_stdin else []
        self._child = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        self._replies = self._last = 0
        self._rest = b""

    def run(self) -> None:
        """Translate ping's lines until told to stop; sequence numbers that are missing were lost."""
        pipe = self._child.stdout
        if pipe is None:
            raise OSError("ping has no output")  # noqa: EM101, TRY003
        while not self.reason:
            readable, _, _ = select.select([*self._inputs, pipe.fileno()], [], [], 0.01)
            now = monotonic_ns()
            if 0 in readable:
                self.reason = obey(self.out) or self.reason
            if pipe.fileno() in readable:
                self._take(os.read(pipe.fileno(), 65536))
            if now >= self._end_ns:
                self.reason = "duration"
            self.out.pump(now)
        self._child.terminate()
        _, complaint = self._child.communicate()
        if self._replies == 0 and complaint:
            self.out.say("note", text=complaint.decode("utf-8", "replace").strip())
        totals = {"sent": self._last, "replies": self._replies, "lost": self._last - self._replies}
        self.out.end(reason=self.reason, skipped=0, lag_max_us=None, errors={}, reconnects=0, cpu_us=None, **totals)

    def _take(self, data: bytes) -> None:
        if not data:
            self.reason = "ping ended"
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            answer = self._ANSWER.match(line)
            if answer is None:
                continue
            wall_ns = int(answer.group(1)) * 1_000_000_000 + int(answer.group(2)) * 1000
            rtt_ns = int(float(answer.group(4)) * 1e6)
            sent_ns = wall_ns - self.out.wall_ns + self.out.start_ns - rtt_ns
            number = self._unwrapped(int(answer.group(3)))
            for missing in range(self._last + 1, number):
                self.out.row(missing, sent_ns - (number - missing) * self._interval_ns, None, None)
            if self._replies == 0:
                self.out.say("ready", seq=number, mono_us=self.out.since_start_us(sent_ns + rtt_ns))
            self._replies += 1
            self._last = max(self._last, number)
            self.out.row(number, sent_ns, rtt_ns, None)

    def _unwrapped(self, sequence: int) -> int:
        """Count on from the last number to the nearest one with this 16-bit sequence number."""
        return self._last + (sequence - self._last + 0x8000) % 0x10000 - 0x8000


# -- the start ---------------------------------------------------------------------------------------------------------


def prioritise(wanted: str) -> str:
    """Ask for a scheduling class in which two busy cores do not delay the probe; name the one that was given."""
    if wanted == "normal":
        return "normal"
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError:
        try:
            os.nice(-10)
        except OSError:
            return "normal"
        return "nice"
    return "fifo"


def parse_arguments() -> argparse.Namespace:
    """Read the command line; see the module's head for the output."""
    parser = argparse.ArgumentParser(prog="prober", description="Probe a guest every few milliseconds.")
    parser.add_argument("kind", choices=sorted(DEFAULT_INTERVAL_MS))
    parser.add_argument("host")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--path", default="/", help="http: path to get; redis: /set for SET and GET")
    parser.add_argument("--interval-ms", type=float, default=0.0)
    parser.add_argument("--timeout-ms", type=float, default=0.0)
    parser.add_argument("--duration-s", type=float, default=0.0, help="0: until stopped")
    parser.add_argument("--flush-ms", type=float, default=200.0)
    parser.add_argument("--priority", choices=["auto", "normal"], default="auto")
    parser.add_argument("--watch-stdin", action="store_true", help="end with standard input; answer 'clock ID'")
    args = parser.parse_args()
    args.interval_ms = args.interval_ms or DEFAULT_INTERVAL_MS[args.kind]
    args.timeout_ms = args.timeout_ms or DEFAULT_TIMEOUT_MS[args.kind]
    args.port = args.port or DEFAULT_PORT.get(args.kind, 0)
    if args.kind != "icmp" and not 0 < args.port < 1 << 16:
        parser.error(f"{args.kind} needs --port")
    if min(args.interval_ms, args.timeout_ms) < 0.2 or not 0 < args.flush_ms <= 1000:  # noqa: PLR2004
        parser.error("intervals and timeouts are at least 0.2 ms, the flush at most 1 s")
    return args


def open_client(args: argparse.Namespace, out: Output) -> Client:
    """Make the client for a kind of request; OSError when the address is unknown or nothing is permitted."""
    found = socket.getaddrinfo(args.host, args.port or None, type=socket.SOCK_STREAM)[0]
    family, address = found[0], (str(found[4][0]), int(found[4][1]))
    if args.kind == "icmp":
        try:
            return IcmpClient(out, family, address[0])
        except PermissionError:
            return PingCommand(out, args, address[0])
    if args.kind == "tcp-connect":
        return ConnectClient(out, family, address)
    if args.kind == "redis":
        return StreamClient(out, family, address, RedisTalk(store=args.path.strip("/") == "set"))
    if args.kind == "http":
        return StreamClient(out, family, address, HttpTalk(args.host, args.path))
    return StreamClient(out, family, address, Talk())


def main() -> int:
    """Probe; exit status 0 for a story with its end, 2 when it could not begin."""
    args = parse_arguments()
    gc.disable()  # the loop makes no cycles, and a collection is a pause
    out = Output(int(args.flush_ms * 1e6))
    try:
        client = open_client(args, out)
    except OSError as error:
        sys.stderr.write(f"prober: {args.host}: {error}\n")
        return 2
    runner = client if isinstance(client, PingCommand) else Loop(client, out, args)

    def stop(number: int, _frame: object) -> None:
        runner.reason = signal.Signals(number).name

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    out.say(
        "header", version=FORMAT_VERSION, kind=args.kind, method=client.method, host=args.host, port=args.port,
        interval_us=int(args.interval_ms * 1000), timeout_us=int(args.timeout_ms * 1000), mono_us=0,
        real_ns=out.wall_ns, scheduling=prioritise(args.priority), vantage=socket.gethostname(),
    )  # fmt: skip
    if isinstance(client, PingCommand):
        out.say("note", text="no ICMP socket is permitted here; the system's ping is used and its lag is unknown")
    try:
        runner.run()
    except BrokenPipeError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
