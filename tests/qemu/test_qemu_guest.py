from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from qmp_double import GREETING, Qmp, Refusal, peer

from godwit.errors import HypervisorError, MonitorLostError, MonitorProtocolError
from godwit.model import RunState, StreamStatus
from godwit.qemu.beside import channels
from godwit.qemu.guest import QemuGuest
from godwit.qemu.monitor import Monitor
from godwit.qemu.process import ProcessFacts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

COMPLETED = {"status": "completed", "total-time": 31, "downtime": 17, "setup-time": 1}


@asynccontextmanager
async def guest_of(server: Qmp) -> AsyncIterator[QemuGuest]:
    async def read_process() -> ProcessFacts:
        return ProcessFacts(1, ("q",), "/")

    async with peer(server) as connection:
        guest = QemuGuest("web1", await Monitor.open(connection, where="web1", now=lambda: 9.0), read_process)
        yield guest
        await guest.close()


@pytest.mark.parametrize(
    ("act", "command", "arguments"),
    [
        (lambda g: g.resume(), "cont", None),
        (lambda g: g.pause(), "stop", None),
        (lambda g: g.listen("tcp:198.18.0.1:4"), "migrate-incoming", {"uri": "tcp:198.18.0.1:4"}),
        (lambda g: g.migrate("tcp:198.18.0.1:4"), "migrate", {"uri": "tcp:198.18.0.1:4"}),
        (lambda g: g.cancel_migration(), "migrate_cancel", None),
        (lambda g: g.announce(), "announce-self", {"initial": 50, "max": 550, "rounds": 5, "step": 100}),
        (lambda g: g.powerdown(), "system_powerdown", None),
        (lambda g: g.reset(), "system_reset", None),
        (lambda g: g.keep_after_power_off(keep=True), "set-action", {"shutdown": "pause", "reboot": "reset"}),
        (lambda g: g.forget_hand_over(), "migrate-set-parameters", {"mode": "normal"}),
        (lambda g: g.set_parameters({"downtime-limit": 20}), "migrate-set-parameters", {"downtime-limit": 20}),
        (
            lambda g: g.set_capabilities({"events": True, "multifd": False}),
            "migrate-set-capabilities",
            {"capabilities": [{"capability": "events", "state": True}, {"capability": "multifd", "state": False}]},
        ),
    ],
)
async def test_each_act_is_one_command(
    act: Callable[[QemuGuest], Awaitable[object]], command: str, arguments: dict[str, object] | None
) -> None:
    server = Qmp()
    async with guest_of(server) as guest:
        await act(guest)
        assert server.asked() == [(command, arguments)]


async def test_of_a_range_of_ports_the_one_that_qemu_took_is_told() -> None:
    server = Qmp()
    server.replies = {
        "query-migrate": [{"status": "setup", "socket-address": [{"type": "inet", "host": "fd00::2", "port": "49155"}]}]
    }
    async with guest_of(server) as guest:
        assert await guest.listen("tcp:[fd00::2]:49152,to=49215") == "tcp:[fd00::2]:49155"
        assert server.asked()[0] == ("migrate-incoming", {"uri": "tcp:[fd00::2]:49152,to=49215"})


@pytest.mark.parametrize(
    ("answer", "listens", "said"),
    [
        ({}, [{"type": "inet", "host": "192.0.2.2", "port": "49155"}], None),
        (Refusal("Illegal state"), [{"type": "inet", "host": "192.0.2.2", "port": "49155"}], None),
        (Refusal("Address already in use"), [], "already in use"),
        (Refusal("Address already in use"), None, "already in use"),
        ({}, [], "does not say where"),
    ],
)
async def test_one_that_listens_already_says_where_and_one_that_does_not_says_why(
    answer: object, listens: list[object] | None, said: str | None
) -> None:
    server = Qmp()
    told = {"status": "setup"} | ({} if listens is None else {"socket-address": listens})
    server.replies = {"migrate-incoming": [answer], "query-migrate": [told]}
    async with guest_of(server) as guest:
        if said is None:
            assert await guest.listen("tcp:192.0.2.2:49152,to=49215") == "tcp:192.0.2.2:49155"
        else:
            with pytest.raises(HypervisorError, match=said):
                await guest.listen("tcp:192.0.2.2:49152,to=49215")


async def test_a_view_and_a_sample() -> None:
    server = Qmp()
    server.replies = {
        "query-status": [{"status": "finish-migrate", "running": False}],
        "query-migrate": [{"status": "device", "ram": {"transferred": 5, "dirty-sync-count": 2}}],
    }
    async with guest_of(server) as guest:
        view = await guest.view()
        assert (view.state, view.stream, view.raw) == (
            RunState.STOPPED_FOR_SWITCHOVER,
            StreamStatus.SWITCHOVER,
            "finish-migrate/device",
        )
        sample = await guest.sample()
        assert sample is not None
        assert (sample.at, sample.transferred, sample.iteration) == (9.0, 5, 2)


async def test_events_are_held_from_the_call_on() -> None:
    server = Qmp()
    async with guest_of(server) as guest:
        events = guest.events()
        server.send({"event": "RTC_CHANGE", "data": {"offset": 1}})
        server.send(
            {"event": "MIGRATION", "data": {"status": "active"}, "timestamp": {"seconds": 3, "microseconds": 0}}
        )
        await guest.pause()
        await guest.close()
        seen = [(event.kind, event.status, event.host_time) async for event in events]
        assert seen[0] == ("MIGRATION", "active", 3.0)
        assert [kind for kind, _, _ in seen] == ["MIGRATION", "LOST"]


async def test_quit_returns_when_the_monitor_has_closed() -> None:
    async with guest_of(Qmp()) as guest:
        await guest.quit()
        assert not guest.monitor.connected
        with pytest.raises(MonitorLostError):
            await guest.view()


async def test_an_old_qemus_figures_are_read_again_until_they_are_there() -> None:
    server = Qmp(GREETING.replace(b'"minor": 0, "major": 10', b'"minor": 2, "major": 7'))
    server.replies = {"query-migrate": [{**COMPLETED, "total-time": 0}, {**COMPLETED, "total-time": 0}, COMPLETED]}
    async with guest_of(server) as guest:
        assert await guest.migration_result() == {"total-time": 31.0, "downtime": 17.0, "setup-time": 1.0}
        assert len(server.asked()) == 3


async def test_a_line_for_people_comes_back_with_plain_line_ends() -> None:
    server = Qmp()
    server.replies = {"human-monitor-command": ["VM status: running\r\n", {"no": "text"}]}
    async with guest_of(server) as guest:
        assert await guest.human("info status") == "VM status: running\n"
        assert server.asked() == [("human-monitor-command", {"command-line": "info status"})]
        with pytest.raises(MonitorProtocolError, match="no text"):
            await guest.human("info status")


async def test_what_keeps_memory_from_being_taken_is_asked_in_that_mode_and_the_mode_is_given_back() -> None:
    server = Qmp()
    server.replies = {"query-migrate": [{"blocked-reasons": ["Memory region pc.ram"]}]}
    async with guest_of(server) as guest:
        assert await guest.hand_over_hindrances() == ("Memory region pc.ram",)
        assert server.asked() == [
            ("migrate-set-parameters", {"mode": "cpr-transfer"}),
            ("query-migrate", None),
            ("migrate-set-parameters", {"mode": "normal"}),
        ]


async def test_a_hand_over_is_a_stream_of_two_channels() -> None:
    server = Qmp()
    async with guest_of(server) as guest:
        await guest.hand_over("/run/t")
        (mode, started) = server.asked()
        assert mode == ("migrate-set-parameters", {"mode": "cpr-transfer"})
        assert started == ("migrate", {"channels": list(channels("/run/t"))})
