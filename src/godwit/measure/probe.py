"""The driver of the outside probe: starts the prober wherever a command leads, and follows what it sees."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self
from urllib.parse import urlsplit

from godwit.clock import now
from godwit.core.clocks import Bracket, ClockOffset, estimate_offset
from godwit.errors import ProbeError
from godwit.measure.collect import Collector
from godwit.measure.series import ProbeSeries

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from types import TracebackType

__all__ = ["OutsideProbe", "ProbeSeries", "ProbeSpec", "ProberProcess", "start_local"]

PROBER = Path(__file__).with_name("prober.py")
KINDS = ("icmp", "tcp-connect", "tcp", "http", "redis")
DEFAULT_PORTS = {"http": 80, "redis": 6379}
START_DEADLINE_S = 15.0
CLOCK_DEADLINE_S = 5.0
CLOCK_BRACKETS = 8
END_DEADLINE_S = 3.0
KILL_DEADLINE_S = 1.0
LAST_WORDS_S = 0.5
SHORTEST_INTERVAL_MS = 2.0
LINE_LIMIT = 1 << 20
SPARE_BYTES = 4 << 20
BYTES_PER_S = 1 << 16
BYTES_PER_REQUEST = 200
"""What a prober may say: so much at once, each second, and of each request. It needs a fifth of that."""

LAST_WORDS_BYTES = 4096

# Reads the prober from standard input by its length, so that the input stays open as the line to its driver.
BOOTSTRAP = """import os,sys
n=int(sys.argv.pop(1));b=b""
while len(b)<n:
    c=os.read(0,n-len(b))
    if not c: sys.exit(3)
    b+=c
exec(compile(b,"prober.py","exec"))
"""


@dataclass(frozen=True, slots=True)
class ProbeSpec:
    """What to ask, where, how often. Zero milliseconds mean the kind's default (2 ms; 50 ms for tcp-connect)."""

    kind: str
    host: str
    port: int = 0
    path: str = "/"
    interval_ms: float = 0.0
    timeout_ms: float = 0.0
    duration_s: float = 0.0
    realtime: bool = True

    @classmethod
    def parse(cls, text: str, *, interval_ms: float = 0.0, duration_s: float = 0.0) -> ProbeSpec:
        """Read ``ADDRESS`` (ICMP) or ``KIND://ADDRESS:PORT[/PATH]``; ValueError says what is wrong.

        Kinds: icmp, tcp-connect, tcp (a line is echoed), http, redis (PING; path ``/set``: SET and GET in turn).
        """
        if "://" not in text:
            text = f"icmp://{text}" if text.count(":") < 2 or text.startswith("[") else f"icmp://[{text}]"  # noqa: PLR2004
        parts = urlsplit(text)
        try:
            port = parts.port
        except ValueError as error:
            message = f"{text}: the port is no number from 1 to 65535"
            raise ValueError(message) from error
        fault = _fault(parts.scheme, parts.hostname, port)
        if fault:
            message = f"{text}: {fault}"
            raise ValueError(message)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        number = port or DEFAULT_PORTS.get(parts.scheme, 0)
        return cls(parts.scheme, parts.hostname or "", number, path or "/", interval_ms, 0.0, duration_s)

    def arguments(self) -> list[str]:
        """Give the prober's command line."""
        given = ["--path", self.path, "--priority", "auto" if self.realtime else "normal", "--watch-stdin"]
        numbers = {"--port": self.port, "--interval-ms": self.interval_ms, "--timeout-ms": self.timeout_ms}
        for name, value in {**numbers, "--duration-s": self.duration_s}.items():
            given += [name, str(value)] if value else []
        return [self.kind, *given, "--", self.host]


def _fault(kind: str, host: str | None, port: int | None) -> str:
    """Name what is wrong with the parts of an address, or nothing."""
    if kind not in KINDS:
        return f"{kind!r} is no kind of probe (one of {', '.join(KINDS)})"
    if not host:
        return "the address is missing"
    if any(character.isspace() or not character.isprintable() for character in host):
        return "the address has characters that no address has"
    if kind == "icmp" and port is not None:
        return f"ICMP has no ports; tcp-connect://{host}:{port} connects to one"
    if kind in {"tcp", "tcp-connect"} and not port:
        return f"{kind} needs a port"
    return ""


class ProberProcess(Protocol):
    """A started prober, wherever it runs: a child of ours, or a process at the far end of an SSH connection."""

    async def write(self, data: bytes) -> None:
        """Write to its standard input."""
        ...

    def close_input(self) -> None:
        """Close its standard input, upon which it ends with its totals."""
        ...

    async def read_line(self) -> bytes:
        """Read a line of its standard output; empty at the end."""
        ...

    async def read_errors(self) -> bytes:
        """Read its standard error to the end, and return the end of it: LAST_WORDS_BYTES at most."""
        ...

    def terminate(self) -> None:
        """Send SIGTERM, if it still runs."""
        ...

    def kill(self) -> None:
        """Send SIGKILL, if it still runs."""
        ...

    async def wait(self) -> int:
        """Wait for its end and give its exit status."""
        ...


class _LocalProcess:
    """A child of this process."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        """Keep the child."""
        if child.stdin is None or child.stdout is None or child.stderr is None:
            message = "a prober needs all three standard streams"
            raise ValueError(message)
        self._child, self._stdin = child, child.stdin
        self._stdout, self._stderr = child.stdout, child.stderr

    async def write(self, data: bytes) -> None:
        self._stdin.write(data)
        await self._stdin.drain()

    def close_input(self) -> None:
        self._stdin.close()

    async def read_line(self) -> bytes:
        return await self._stdout.readline()

    async def read_errors(self) -> bytes:
        return await last_words(self._stderr)

    def terminate(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._child.terminate()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._child.kill()

    async def wait(self) -> int:
        return await self._child.wait()


class _Readable(Protocol):
    async def read(self, n: int = -1, /) -> bytes: ...


async def last_words(stream: _Readable) -> bytes:
    """Read a stream to its end and return the last of it."""
    kept = b""
    while chunk := await stream.read(LAST_WORDS_BYTES):
        kept = (kept + chunk)[-LAST_WORDS_BYTES:]
    return kept


async def start_local(argv: Sequence[str]) -> ProberProcess:
    """Start a command as a child in a session of its own (the terminal's Ctrl-C is not for it); OSError if absent."""
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        *argv, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True, limit=LINE_LIMIT
    )
    return _LocalProcess(child)


class OutsideProbe:
    """``async with OutsideProbe(command, spec) as probe``: a prober that runs until ``finish()`` or the block's end.

    ``command`` leads to a Python there: ``[sys.executable]``, ``["nsenter", "--net=...", "python3"]``, or with
    ``send_source=True, through_shell=True`` ``["ssh", "vantage", "python3"]``, where nothing need be installed.
    ``launch`` starts the argv; by default as a child of ours. ProbeError, with the prober's own words, if it dies.
    """

    def __init__(
        self,
        command: Sequence[str],
        spec: ProbeSpec,
        *,
        send_source: bool = False,
        through_shell: bool = False,
        launch: Callable[[Sequence[str]], Awaitable[ProberProcess]] = start_local,
    ) -> None:
        """Keep what to start; nothing runs before the block is entered."""
        self.spec = spec
        self._source = PROBER.read_bytes() if send_source else b""
        head = ["-c", BOOTSTRAP, str(len(self._source))] if send_source else [str(PROBER)]
        rest = [*head, *spec.arguments()]
        self._argv = [*command, *(map(shlex.quote, rest) if through_shell else rest)]
        self._launch = launch
        self._process: ProberProcess | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._collector = Collector()
        self._news = asyncio.Condition()
        self._closed = False
        self._fault = ""
        self._stderr = b""
        self._answers: list[tuple[float, float]] = []

    async def __aenter__(self) -> Self:
        """Start the prober, wait for its header and measure its clock; ProbeError when it does not come up."""
        try:
            self._process = process = await self._launch(self._argv)
        except OSError as error:
            message = f"the outside probe cannot start: {error}"
            raise ProbeError(message) from error
        self._tasks = [asyncio.create_task(self._read(process)), asyncio.create_task(self._read_errors(process))]
        try:
            if self._source:
                await self._write(self._source)
            await self._until(lambda: self._collector.header is not None, START_DEADLINE_S, "does not come up")
            self._collector.offset = await self._measure_clock()
        except BaseException:
            await self._end_process()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the prober, whatever happened; what it saw stays available from ``collected()``."""
        await self._end_process()

    @property
    def running(self) -> bool:
        """Whether the prober still writes; False once it ended, for whatever reason."""
        return self._process is not None and not self._closed

    async def ready(self, timeout_s: float = 10.0) -> None:
        """Wait for the first reply; ProbeError when none comes in time or the prober dies."""
        await self._until(lambda: self._collector.ready, timeout_s, f"got no reply from {self.spec.host}")

    async def replied_since(self, instant_s: float, timeout_s: float | None = None) -> float:
        """Wait until a request *sent* at or after an instant (UNIX seconds, our clock) was answered.

        Gives the instant at which the latest such request was sent. Sent, not answered: a reply may have been on its
        way since before. ProbeError when the prober ends or ``timeout_s`` passes.
        """
        since = f"got no reply from {self.spec.host} since the instant asked about"
        await self._until(lambda: self._collector.last_answered_sent_s >= instant_s, timeout_s, since)
        return self._collector.last_answered_sent_s

    def collected(self) -> ProbeSeries:
        """Give what has been seen so far, also after the prober died."""
        return self._collector.series()

    async def finish(self) -> ProbeSeries:
        """Stop probing and give the whole series; ProbeError when the prober had died before."""
        await self._end_process()
        if self._collector.end is None:
            raise self._death()
        return self._collector.series()

    async def _until(self, condition: Callable[[], bool], timeout_s: float | None, complaint: str) -> None:
        """Wait for something the prober tells; its death ends the wait at once."""
        try:
            async with asyncio.timeout(timeout_s), self._news:
                await self._news.wait_for(lambda: condition() or self._closed)
        except TimeoutError as error:
            message = f"the outside probe {complaint} within {timeout_s:g} s"
            raise ProbeError(message, remedy="Check the address, and that the vantage point reaches it.") from error
        if not condition():
            await asyncio.wait(self._tasks, timeout=LAST_WORDS_S)  # they come on another pipe
            raise self._death()

    def _death(self) -> ProbeError:
        reason = self._collector.end["reason"] if self._collector.end else "without a word"
        words = self._fault or self._stderr.decode("utf-8", "replace").strip() or reason
        return ProbeError(f"the outside probe of {self.spec.host} ended: {words[-2000:]}")

    async def _write(self, data: bytes) -> None:
        if self._process is not None:
            with contextlib.suppress(ConnectionError):  # it died: the reader notices, and says why
                await self._process.write(data)

    async def _read(self, process: ProberProcess) -> None:
        """Feed the collector until the prober closes its output."""
        begun, said = asyncio.get_running_loop().time(), 0
        rate = BYTES_PER_S + BYTES_PER_REQUEST * 1000 / (self.spec.interval_ms or SHORTEST_INTERVAL_MS)
        try:
            while line := await process.read_line():
                said += len(line)
                if said > SPARE_BYTES + rate * (asyncio.get_running_loop().time() - begun):
                    self._fault = f"it said {said} bytes, more than it was asked for"
                    process.kill()
                    break
                await self._take(line)
        except (ValueError, OSError) as error:
            self._fault = str(error)
        async with self._news:
            self._closed = True
            self._news.notify_all()

    async def _take(self, line: bytes) -> None:
        if self._collector.header is None and not line.startswith(b"{"):
            return  # a login shell may greet before the prober speaks
        message = self._collector.feed(line)
        if message["t"] == "clock" and "id" in message:
            self._answers.append((message["real_ns"] / 1e9, now()))
        async with self._news:
            self._news.notify_all()

    async def _read_errors(self, process: ProberProcess) -> None:
        self._stderr = await process.read_errors()

    async def _measure_clock(self) -> ClockOffset:
        """Bracket the vantage point's clock; clocks that may well be the same are taken to be the same."""
        brackets = []
        for number in range(1, CLOCK_BRACKETS + 1):
            sent = now()
            await self._write(f"clock {number}\n".encode())
            await self._until(lambda: len(self._answers) == number, CLOCK_DEADLINE_S, "does not tell its clock")  # noqa: B023
            remote, received = self._answers[-1]
            brackets.append(Bracket(sent, remote, max(sent, received)))
        found = estimate_offset(brackets)
        if abs(found.offset_s) <= found.uncertainty_s:
            return ClockOffset(0.0, found.uncertainty_s, found.agreed, found.asked)
        return found

    async def _end_process(self) -> None:
        """Close its input, then SIGTERM, then SIGKILL, each with a deadline; then nothing of it is left."""
        process, self._process = self._process, None
        if process is None:
            return
        process.close_input()
        for deadline, harder in ((END_DEADLINE_S, process.terminate), (KILL_DEADLINE_S, process.kill)):
            try:
                async with asyncio.timeout(deadline):
                    await process.wait()
                break
            except TimeoutError:
                harder()
        else:
            await process.wait()
        _, late = await asyncio.wait(self._tasks, timeout=KILL_DEADLINE_S)
        for task in late:  # a grandchild holds the pipes
            task.cancel()
