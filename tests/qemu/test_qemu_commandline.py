from __future__ import annotations

import json
import shlex

import pytest

from godwit.model import Launch, Macvtap, Tap
from godwit.qemu.commandline import (
    Running,
    guest_name,
    incoming_argv,
    move_vnc,
    parse,
    qmp_sockets,
    target_launch,
    vnc_ports,
)
from godwit.qemu.options import CommandLineError, Option
from godwit.qemu.ownership import inherited_descriptors, owned_by_libvirt
from godwit.qemu.process import ProcessFacts

PC = Running("pc-i440fx-10.0", "tcg")
Q35 = Running("pc-q35-10.0", "kvm")
SEED = "qemu-system-x86_64 /mnt/images/rhel7.img -smp 2 -m 2048 -net nic -net tap -qmp unix:qmp.sock,server,nowait"


def process(line: str, cwd: str = "/home/vm", began_in: str | None = None) -> ProcessFacts:
    environment = {} if began_in is None else {"PWD": began_in}
    return ProcessFacts(1, tuple(shlex.split(line)), cwd, environment)


def target(line: str, running: Running = PC, cwd: str = "/home/vm") -> str:
    launch, refusals = target_launch(process(line, cwd), running)
    assert refusals == ()
    assert launch.working_directory == "/"
    return shlex.join(launch.argv)


def test_the_seeds_own_command_line() -> None:
    running = Running("pc-i440fx-10.0", "tcg", put={3: {"macaddr": "52:54:00:12:34:56"}})
    launch, refusals = target_launch(process(SEED), running)
    assert refusals == ()
    assert shlex.join(launch.argv) == (
        "qemu-system-x86_64 -machine pc-i440fx-10.0 /mnt/images/rhel7.img -smp 2 -m 2048"
        " -net nic,macaddr=52:54:00:12:34:56 -net tap -qmp unix:/home/vm/qmp.sock,server,nowait"
        " -accel tcg -vnc localhost:0,to=99"
    )
    assert launch.folders == ("/home/vm",)
    assert launch.taps == ()
    assert incoming_argv(launch)[-3:] == ("-incoming", "defer", "-S")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("x.img -display none", "/home/vm/x.img -display none"),
        ("-hda file:x.img -display none", "-hda file:/home/vm/x.img -display none"),
        ("-hda nbd:h:1 -cdrom '' -display none", "-hda nbd:h:1 -cdrom '' -display none"),
        ("-drive file=x.img,if=none,id=d -vnc :1", "-drive file=/home/vm/x.img,if=none,id=d -vnc :1"),
        ("-drive 'file=a,,b.img' -vnc :1", "-drive file=/home/vm/a,,b.img -vnc :1"),
        ("-drive driver=qcow2,file.driver=file,file.filename=q -vnc :1",
         "-drive driver=qcow2,file.driver=file,file.filename=/home/vm/q -vnc :1"),
        ("-blockdev qcow2,node-name=d,file=f -blockdev file,node-name=f,filename=./q -vnc :1",
         "-blockdev qcow2,node-name=d,file=f -blockdev file,node-name=f,filename=/home/vm/q -vnc :1"),
        ("-kernel vmlinuz -initrd ../i -append 'root=/dev/vda file=x' -nographic",
         "-kernel /home/vm/vmlinuz -initrd /home/vm/../i -append 'root=/dev/vda file=x' -nographic"),
        ("-bios OVMF.fd -nographic", "-bios OVMF.fd -nographic"),
        ("-bios fw/OVMF.fd -nographic", "-bios /home/vm/fw/OVMF.fd -nographic"),
        ("-drive if=pflash,unit=0,file=code.fd,readonly=on -pflash vars.fd -nographic",
         "-drive if=pflash,unit=0,file=/home/vm/code.fd,readonly=on -pflash /home/vm/vars.fd -nographic"),
        ("-chardev socket,id=c,path=c.sock,server=on,wait=off -mon c,mode=control -nographic",
         "-chardev socket,id=c,path=/home/vm/c.sock,server=on,wait=off -mon c,mode=control -nographic"),
        ("-serial file:s.log -monitor mon:unix:m,server -parallel none -nographic",
         "-serial file:/home/vm/s.log -monitor mon:unix:/home/vm/m,server -parallel none -nographic"),
        ("-pidfile p -D log -daemonize -nodefaults -nographic",
         "-pidfile /home/vm/p -D /home/vm/log -nodefaults -nographic"),
        ("-incoming tcp:0:6666 -S --preconfig -loadvm s -nographic", "-nographic"),
        ("-display gtk,gl=on -full-screen", "-display none"),
        ("-vnc unix:v.sock,password=on", "-vnc unix:/home/vm/v.sock,password=on"),
        ("-fw_cfg name=opt/x,file=f -object rng-random,id=r,filename=/dev/random -nographic",
         "-fw_cfg name=opt/x,file=/home/vm/f -object rng-random,id=r,filename=/dev/random -nographic"),
        ("-netdev tap,id=n,script=up.sh,downscript=no -nographic",
         "-netdev tap,id=n,script=/home/vm/up.sh,downscript=no -nographic"),
    ],
)  # fmt: skip
def test_relative_paths_resolve_where_qemu_runs(before: str, after: str) -> None:
    expected = f"q -machine pc-i440fx-10.0 {after}"
    assert target(f"q {before}") in {f"{expected} -accel tcg", f"{expected} -accel tcg -vnc localhost:0,to=99"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("-M q35 -nographic -enable-kvm", "-M pc-q35-10.0 -nographic -enable-kvm"),
        ("-machine type=q35,usb=off,accel=kvm:tcg -nographic",
         "-machine type=pc-q35-10.0,usb=off,accel=kvm -nographic"),
        ("-machine accel=kvm -nographic", "-machine pc-q35-10.0 -machine accel=kvm -nographic"),
        ("-M q35 -accel kvm,dirty-ring-size=4096 -accel tcg -nographic",
         "-M pc-q35-10.0 -accel kvm,dirty-ring-size=4096 -nographic"),
        ("-M q35 -nographic", "-M pc-q35-10.0 -nographic -accel kvm"),
        ("-machine usb=off -M q35 -nographic -accel kvm", "-machine usb=off -M pc-q35-10.0 -nographic -accel kvm"),
    ],
)  # fmt: skip
def test_machine_type_and_accelerator_are_those_of_the_running_machine(before: str, after: str) -> None:
    assert target(f"q {before}", Q35) == f"q {after}"


def test_modern_json_line() -> None:
    blockdev = {"driver": "qcow2", "node-name": "d", "file": {"driver": "file", "filename": "d.qcow2"}}
    device = '{"driver":"virtio-blk-pci","drive":"d","id":"disk"}'
    line = shlex.join(["q", "-nographic", "-blockdev", json.dumps(blockdev), "-device", device])
    running = Running("pc-q35-9.2", "tcg", put={2: {"addr": "03.0", "bus": "pcie.0"}})
    launch, _ = target_launch(process(line), running)
    values = dict(zip(launch.argv, launch.argv[1:], strict=False))
    assert json.loads(values["-blockdev"])["file"]["filename"] == "/home/vm/d.qcow2"
    assert json.loads(values["-device"]) == {**json.loads(device), "addr": "03.0", "bus": "pcie.0"}


def test_what_was_unplugged_is_gone_and_what_was_plugged_in_is_there() -> None:
    running = Running("pc-i440fx-10.0", "tcg", removed=frozenset({1}), added=(Option("device", "e1000,id=x"),))
    launch, _ = target_launch(process("q -nographic -device e1000,id=y -m 1"), running)
    assert "e1000,id=y" not in launch.argv
    assert launch.argv[-2:] == ("-device", "e1000,id=x")


def test_a_tap_without_scripts_must_be_made_before() -> None:
    line = "q -nographic -netdev tap,id=a,ifname=vm1,script=no,downscript=no -net tap,ifname=vm2"
    launch, _ = target_launch(process(line), PC)
    assert launch.taps == (Tap("vm1", ""),)


def test_a_daemon_has_left_its_folder() -> None:
    daemon = "q -daemonize -nographic disk.img"
    launch, refusals = target_launch(process(daemon, "/", began_in="/srv"), PC)
    assert "/srv/disk.img" in launch.argv
    assert refusals == ()
    _, refusals = target_launch(process(daemon, "/"), PC)
    assert refusals == (
        "disk.img: the path disk.img is relative, and nobody knows to which folder: QEMU went to / when it daemonized",
    )


@pytest.mark.parametrize("option", ["-readconfig x.cfg", "-snapshot", "-drive file=/a,snapshot=on"])
def test_what_cannot_be_repeated_is_refused_by_name(option: str) -> None:
    _, refusals = target_launch(process(f"q -nographic {option}"), PC)
    assert len(refusals) == 1
    assert refusals[0].startswith(f"{option}: ")


@pytest.mark.parametrize(
    "option",
    [
        "-netdev tap,id=n,fd=23",
        "-netdev tap,id=n,fds=23:24,vhost=on,vhostfds=25:26",
        "-netdev stream,id=n,addr.type=fd,addr.str=5",
        '-netdev {"type":"tap","id":"n","fd":"23"}',
        "-chardev socket,id=c,fd=7,server=on",
        "-add-fd set=2,fd=9,opaque=x",
        "-drive file=/dev/fdset/2,if=none,id=d",
        '-blockdev {"driver":"file","filename":"/dev/fdset/3","node-name":"n"}',
        "-chardev file,id=c,path=/dev/fdset/1,append=on",
        "-device vhost-vsock-pci,vhostfd=3,guest-cid=4",
        "-fsdev proxy,id=f,sock_fd=4",
        "-serial file:/dev/fd/3",
    ],
)
def test_inherited_descriptors_are_found(option: str) -> None:
    found = parse(["q", "-smp", "2", *option.split(" ", 1), "-S"])
    assert inherited_descriptors(found) == (option,)


@pytest.mark.parametrize(
    "option",
    [
        "-netdev tap,id=n,ifname=fd0",
        "-append fd=3",
        "-sandbox on",
        "-incoming fd:3",
        "-drive file=/data/dev/fd,if=none",
    ],
)
def test_what_only_looks_like_a_descriptor(option: str) -> None:
    assert inherited_descriptors(parse(["q", *option.split(" ", 1)])) == ()


LIBVIRT = (
    "/usr/bin/qemu-system-x86_64 -name guest=web1,debug-threads=on -S"
    """ -object '{"qom-type":"secret","id":"masterKey0","file":"/var/lib/libvirt/qemu/domain-1-web1/key"}'"""
    " -machine pc-q35-10.0,usb=off,memory-backend=pc.ram -accel kvm -cpu host,migratable=on -m size=1048576k"
    " -chardev socket,id=charmonitor,fd=30,server=on,wait=off -mon chardev=charmonitor,id=monitor,mode=control"
    """ -netdev '{"type":"tap","fd":"32","vhost":true,"vhostfd":"34","id":"hostnet0"}' -sandbox on,obsolete=deny"""
)


def test_libvirts_guests_are_recognised() -> None:
    found = parse(shlex.split(LIBVIRT))
    assert owned_by_libvirt(found)
    assert [words.split(",")[0] for words in inherited_descriptors(found)] == [
        "-chardev socket",
        '-netdev {"type":"tap"',
    ]
    assert not owned_by_libvirt(parse(shlex.split(SEED)))
    assert guest_name(shlex.split(LIBVIRT)) == "web1"
    assert guest_name(shlex.split("q -name web2,process=x")) == "web2"
    assert guest_name(shlex.split(SEED)) is None


@pytest.mark.parametrize(
    ("option", "port", "moved"),
    [
        ("-vnc :1", 5901, "-vnc :3"),
        ("-vnc 127.0.0.1:2,password=on", 5902, "-vnc 127.0.0.1:3,password=on"),
        ("-vnc [::1]:1", 5901, "-vnc [::1]:3"),
        ("-display vnc=:1,lossy=on", 5901, "-display vnc=:3,lossy=on"),
    ],
)
def test_a_taken_vnc_port_is_moved(option: str, port: int, moved: str) -> None:
    launch = Launch(("q", *option.split()))
    assert vnc_ports(launch) == (port,)
    assert move_vnc(launch, frozenset({5901, 5902})).argv == ("q", *moved.split())
    assert move_vnc(launch, frozenset({5900})) == launch


@pytest.mark.parametrize(
    "option", ["-vnc localhost:0,to=99", "-vnc unix:/v", "-vnc none", "-display none", "-vnc h:1,reverse=on"]
)
def test_vnc_without_a_fixed_port_stays(option: str) -> None:
    launch = Launch(("q", *option.split()))
    assert vnc_ports(launch) == ()
    assert move_vnc(launch, frozenset(range(5900, 6000))) == launch


def test_an_unknown_option_is_not_guessed_at() -> None:
    with pytest.raises(CommandLineError, match="-zork"):
        target_launch(process("q -zork"), PC)


@pytest.mark.parametrize(
    ("line", "sockets"),
    [
        ("-qmp unix:q,server,nowait", ["/srv/q"]),
        ("-qmp unix:/run/a,,b.sock,server=on,wait=off", ["/run/a,b.sock"]),
        ("-qmp-pretty unix:/run/p", ["/run/p"]),
        ("-qmp stdio -qmp tcp:localhost:1,server", []),
        ("-chardev socket,id=c,path=c.sock,server=on -mon chardev=c,mode=control", ["/srv/c.sock"]),
        ("-chardev socket,id=c,path=/c.sock,server=on -mon c,mode=control", ["/c.sock"]),
        ("-chardev socket,id=c,path=/c.sock,server=on -mon chardev=c,mode=readline", []),
        ("-chardev stdio,id=c -mon chardev=c,mode=control", []),
        ("-monitor unix:/hmp,server", []),
    ],
)
def test_the_qmp_sockets_of_a_command_line(line: str, sockets: list[str]) -> None:
    process = ProcessFacts(1, ("qemu-system-x86_64", *line.split()), "/srv")
    assert list(qmp_sockets(process, parse(process.argv))) == sockets


def test_a_macvtap_that_godwit_has_opened_is_no_foreign_file_and_goes_along() -> None:
    own = Tap("gw0", "", macvtap=Macvtap("eth0", "bridge", "52:54:00:00:00:01", 3))
    other = Tap("gw1", "", macvtap=Macvtap("eth0", "bridge", "52:54:00:00:00:02", 5))
    foreign = ["-netdev", "tap,id=n1,fd=4", "-netdev", "tap,id=n2,fd=3,vhostfd=7", "-chardev", "socket,id=c,fd=3"]
    argv = ("q", "-netdev", "tap,id=n0,fd=3,vhost=on", *foreign)
    found = parse(argv)
    assert len(inherited_descriptors(found)) == 4
    assert [words.split()[1] for words in inherited_descriptors(found, [own, other])] == foreign[1::2]

    process = ProcessFacts(1, argv[:3], "/", macvtaps=(own, other))
    launch, refusals = target_launch(process, Running("pc-q35-10.0", "tcg"))
    assert (launch.taps, refusals) == ((own,), ())
    assert "tap,id=n0,fd=3,vhost=on" in launch.argv
