"""What every kind of host does beside running guests; see `contract` for the rest, and for the fixture `bench`."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from godwit.errors import (
    BusyError,
    HostError,
    InputError,
    MonitorCommandError,
    RemoteCommandError,
)

if TYPE_CHECKING:
    from contract import Bench


class HostContract:
    """What a host does beside running guests."""

    async def test_facts_of_a_host(self, bench: Bench) -> None:
        here, there = await asyncio.gather(bench.source.facts(), bench.target.facts())

        assert here.name == bench.source.name
        assert here.qemu is not None
        assert here.qemu.version >= (7, 2, 0)
        assert 0 < here.memory_available <= here.memory_total
        assert here.accelerators
        assert (here.machine_id, here.hostname) != (there.machine_id, there.hostname)
        assert here.migration_address != there.migration_address

    async def test_what_guests_could_be_given_of_a_processor(self, bench: Bench) -> None:
        facts = await bench.source.facts()
        assert facts.qemu is not None

        cpu = await bench.source.cpu(facts.qemu.path, "tcg")

        models = {model.name: model for model in cpu.models}
        assert {"max", "qemu64"} <= models.keys()
        assert {"lm", "nx"} <= cpu.gives
        assert all(model.flags >= model.lacks for model in models.values() if model.name != "host")
        assert (await bench.source.cpu(facts.qemu.path, "none-such")).models == ()

    async def test_what_a_guest_takes_is_counted_and_only_grows(self, bench: Bench) -> None:
        assert (await bench.source.work([bench.vm])).guests == ()
        await bench.start()
        first = await bench.source.work([bench.vm])
        await asyncio.sleep(0.5)
        later = await bench.source.work([bench.vm])
        there = await bench.target.work([bench.vm])
        guest = await bench.source.attach(bench.vm)
        cpus = set(await guest.cpu_threads())
        await guest.close()

        (early,), (late,) = first.guests, later.guests
        assert there.guests == ()
        assert later.at > first.at
        assert (early.vm, early.pid) == (bench.vm.name, late.pid)
        assert cpus
        assert cpus <= {one.id for one in late.threads}
        ran = {one.id: one.ran for one in early.threads}
        assert all(one.ran >= ran.get(one.id, 0.0) for one in late.threads)
        assert sum(one.ran for one in late.threads) > sum(ran.values())

    async def test_a_token_is_found_on_shared_storage_and_taken_away_again(self, bench: Bench) -> None:
        await bench.source.plant_token(bench.disk, "a-token")
        found, there = await bench.target.find_token(bench.disk)
        _, here = await bench.source.find_token(bench.disk)

        await bench.source.remove_token(bench.disk, "a-token")
        await bench.source.remove_token(bench.disk, "a-token")

        assert found == "a-token"
        assert here
        assert here == there
        assert (await bench.target.find_token(bench.disk))[0] is None

    async def test_disks_can_be_opened_and_packets_pass(self, bench: Bench) -> None:
        asked = [(bench.disk, True), (bench.private, True), (bench.disk, False)]
        assert await bench.target.forbidden(asked) == ("", "", "")
        far = (await bench.target.facts()).migration_address
        seen = await bench.source.packets(far)
        assert 0 <= seen.largest <= seen.mtu
        assert not seen.told

    async def test_a_file_that_is_not_there_has_no_identity(self, bench: Bench) -> None:
        assert (await bench.source.find_token(bench.private))[1]
        assert await bench.target.find_token(bench.private) == (None, "")

    async def test_an_image_is_made_once_and_is_its_owner_s_until_it_is_kept(self, bench: Bench) -> None:
        image = replace(await bench.source.image(bench.private, "raw"), path=bench.private)
        assert image.virtual_size > 0
        before = await bench.target.place(bench.private)
        assert (before.exists, before.writable, before.can_create) == (False, True, True)

        await bench.target.create_image(image, "one")
        with pytest.raises((HostError, BusyError)):
            await bench.target.create_image(image, "two")
        await bench.target.remove_image(bench.private, "two")
        assert (await bench.target.place(bench.private)).exists
        await bench.target.remove_image(bench.private, "one")
        assert not (await bench.target.place(bench.private)).exists

        await bench.target.create_image(image, "one")
        await bench.target.keep_image(bench.private, "one")
        await bench.target.remove_image(bench.private, "one")
        assert (await bench.target.place(bench.private)).exists

    async def test_an_image_that_was_left_behind_is_known_until_somebody_touches_it(self, bench: Bench) -> None:
        host, path = bench.source, bench.private
        assert await host.older_copy(path, "raw") is None
        await host.leave_image(path, "raw", "web", "a-stamp")
        older = await host.older_copy(path, "raw")
        assert older is not None
        assert (older.vm, older.stamp, older.unchanged, older.resumed) == ("web", "a-stamp", True, False)
        assert older.image is not None

        await host.claim_image(path, "one")
        with pytest.raises((HostError, BusyError)):
            await host.claim_image(path, "two")
        await host.give_back_image(path, "two")
        await host.give_back_image(path, "one")
        older = await host.older_copy(path, "raw")
        assert older is not None
        assert (older.vm, older.stamp, older.unchanged, older.resumed) == ("web", "a-stamp", True, True)

        await bench.tamper()
        older = await host.older_copy(path, "raw")
        assert older is not None
        assert not older.unchanged
        with pytest.raises(HostError):
            await host.claim_image(path, "one")
        await host.discard_image(path)
        assert (await host.place(path)).exists, "it is somebody's now"

        await host.leave_image(path, "raw", "web", "")
        await host.claim_image(path, "one")
        await host.keep_image(path, "one")
        assert await host.older_copy(path, "raw") is None, "it is the guest's own again"

        await host.leave_image(path, "raw", "web", "")
        await host.discard_image(path)
        assert not (await host.place(path)).exists
        await host.discard_image(path)

    async def test_a_file_goes_to_another_host_whole(self, bench: Bench) -> None:
        image = await bench.source.image(bench.private, "raw")
        address, port = (await bench.target.facts()).migration_address, await bench.target.free_port()
        await bench.target.create_image(image, "one")
        await bench.target.take_file(bench.private, "one.file", address, port, image.virtual_size)

        url = f"nbd://{address}:{port}/one.file"
        await bench.source.send_file(bench.private, "one.file", url, size=image.virtual_size, speed=0)
        for host in (bench.source, bench.target, bench.target):
            await host.end_transfer("one.file")

        await bench.target.fit_file(bench.private, image.virtual_size)
        here, there = [await host.digest(bench.private, all_of_it=True) for host in (bench.source, bench.target)]
        assert here == there
        assert await bench.target.used(bench.private) <= await bench.source.used(bench.private) + 65536
        await bench.target.remove_image(bench.private, "one")
        assert await bench.target.used(bench.private) == 0

    async def test_nobody_sends_to_where_nobody_takes(self, bench: Bench) -> None:
        address, port = (await bench.target.facts()).migration_address, await bench.target.free_port()
        url = f"nbd://{address}:{port}/one.file"
        with pytest.raises(HostError, match="refused"):
            await bench.source.send_file(bench.private, "one.file", url, size=1 << 20, speed=0)
        with pytest.raises(HostError, match="refused"):
            await bench.source.compare_image(bench.private, "raw", url, size=1 << 20)
        with pytest.raises(HostError, match="refused"):
            await bench.source.served_head(url)
        with pytest.raises(HostError):
            await bench.target.take_file(bench.private, "one.file", address, port, 1 << 20)

    @pytest.mark.parametrize("all_of_it", [False, True])
    async def test_a_file_has_the_same_digest_wherever_it_is_read(self, bench: Bench, *, all_of_it: bool) -> None:
        here, there = await asyncio.gather(
            *(host.digest(bench.disk, all_of_it=all_of_it) for host in (bench.source, bench.target))
        )

        assert here == there != ""

    async def test_a_lease_of_the_send_queue_can_be_given_back_twice(self, bench: Bench) -> None:
        assert await bench.source.shorten_send_queue("one", 65536)
        assert await bench.source.shorten_send_queue("two", 65536)

        for lease in ("one", "one", "two", "never-taken"):
            await bench.source.restore_send_queue(lease)

    async def test_ports_and_paths(self, bench: Bench) -> None:
        address = (await bench.target.facts()).migration_address
        port = await bench.target.free_port()

        assert 1024 < port < 65536
        assert await bench.source.reaches(address, port)
        assert not await bench.source.reaches("198.19.255.254", port)

    async def test_the_qemu_that_waits_at_a_port_is_found_with_its_monitors(self, bench: Bench) -> None:
        async with bench.both() as (_, _, uri):
            waiting = await bench.target.waiting_at(uri)
            assert bench.vm.control in waiting.monitors
            assert waiting.stays_stopped, "a target is started with -S"
            with pytest.raises(InputError, match="nobody listens"):
                await bench.source.waiting_at(uri)

    async def test_a_guest_listens_once(self, bench: Bench) -> None:
        async with bench.both() as (_, target, uri):
            with pytest.raises(MonitorCommandError):
                await target.listen(uri)

    async def test_commands_run_to_their_end(self, bench: Bench) -> None:
        strange = "a 'quoted'; $(word) with spaces"

        assert (await bench.source.run(["echo", strange])).stdout.decode() == f"{strange}\n"
        assert (await bench.source.run(["cat"], stdin=b"\x00 bytes")).stdout == b"\x00 bytes"
        assert (await bench.source.run(["false"], check=False)).status == 1
        with pytest.raises(RemoteCommandError):
            await bench.source.run(["false"])
