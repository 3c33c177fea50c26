"""A program that looks to a host like a QEMU: it serves QMP at its sockets and ends when it is told to.

Run as `qemu-system-double qemudouble.py -name NAME -qmp unix:PATH,... [-double BEHAVIOUR]`, where the first is a link
to the Python interpreter, so that the process calls itself a QEMU.
"""

from __future__ import annotations

import itertools
import json
import os
import selectors
import socket
import sys
from pathlib import Path

GREETING = {"QMP": {"version": {"qemu": {"major": 10, "minor": 0, "micro": 2}, "package": ""}, "capabilities": []}}
STATE = {"running": True, "status": "running"}


def answer(request: dict[str, object]) -> dict[str, object]:
    replies: dict[object, object] = {"query-status": STATE, "query-migrate": {}, "qmp_capabilities": {}}
    reply = replies.get(request.get("execute"))
    said: dict[str, object]
    said = {"error": {"class": "CommandNotFound", "desc": "no such command"}} if reply is None else {"return": reply}
    return {**said, "id": request["id"]} if "id" in request else said


def serve(client: socket.socket) -> None:
    """Answer one client to its end. Requests come without line ends, as QMP permits."""
    waiting = ""
    with client:
        try:
            client.sendall(json.dumps(GREETING).encode() + b"\r\n")
            while data := client.recv(4096):
                waiting += data.decode()
                while waiting.strip():
                    try:
                        request, end = json.JSONDecoder().raw_decode(waiting.lstrip())
                    except ValueError:
                        break  # the rest of it is still to come
                    waiting = waiting.lstrip()[end:]
                    client.sendall(json.dumps(answer(request)).encode() + b"\r\n")
        except ConnectionError:
            return  # the client went away: the next one's turn


def main(arguments: list[str]) -> int:
    options = dict(itertools.pairwise(arguments))
    if options.get("-double") == "die":
        sys.stderr.write("qemu: -drive file=/x.img: Could not open '/x.img': No such file or directory\n")
        return 1
    if "-pidfile" in options:
        Path(options["-pidfile"]).write_text(f"{os.getpid()}\n", encoding="ascii")
    paths = [value.removeprefix("unix:").split(",")[0] for value in arguments if value.startswith("unix:")]
    with selectors.DefaultSelector() as selector:
        for path in paths:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(path)
            listener.listen(1)
            selector.register(listener, selectors.EVENT_READ, listener)
        if options.get("-double") == "die-late":
            sys.stderr.write("qemu: -device nonsense: 'nonsense' is not a valid device model name\n")
            return 1
        while True:
            for key, _ in selector.select():
                serve(key.data.accept()[0])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
