"""Look at pages of another process's memory, twice, and print what they are like: figures, nothing of their content.

Sent to the host of a guest and run there by its Python (3.6 or later, standard library only) with the arguments PID,
PAGES, PAUSE and then ADDRESS:SIZE of each area. The pages are kept in memory until the program ends a moment later.
"""

import json
import os
import random
import re
import sys
import time
import zlib

PAGE = 4096
COMPRESSED = 128
RUN_OVERHEAD = 3


def main(pid: str, pages: str, pause: str, *areas: str) -> None:
    """Print one line of JSON: see godwit.model.MemorySample for what it says."""
    where = places(int(pages), [tuple(int(part) for part in area.split(":")) for area in areas])
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    first = [os.pread(memory, PAGE, at) for at in where]
    began = time.monotonic()
    time.sleep(float(pause))
    second = [os.pread(memory, PAGE, at) for at in where]
    seconds = time.monotonic() - began
    changed = [number for number, old in enumerate(first) if old != second[number]]
    changes = [delta(first[number], second[number]) for number in changed]
    kept = [page for page in second if page.count(0) < PAGE]
    looked, packed = compressed(kept)
    again_looked, again_packed = compressed([second[number] for number in changed])
    told = {
        "pages": len(where),
        "zero": len(where) - len(kept),
        "changed": len(changes),
        "changes": sum(changes),
        "looked": looked,
        "packed": packed,
        "again_looked": again_looked,
        "again_packed": again_packed,
        "seconds": seconds,
    }
    sys.stdout.write(json.dumps(told) + "\n")


def places(pages: int, spans: "list[tuple[int, ...]]") -> "list[int]":
    """Return the addresses of that many pages, each as likely as any other, in order."""
    total = sum(size // PAGE for _, size in spans)
    return sorted(place(number, spans) for number in random.sample(range(total), min(pages, total)))


def place(number: int, spans: "list[tuple[int, ...]]") -> int:
    """Return the address of a page by its number among those of all areas."""
    start, size = spans[0]
    return start + number * PAGE if number < size // PAGE else place(number - size // PAGE, spans[1:])


def compressed(pages: "list[bytes]") -> "tuple[int, int]":
    """Compress some of these pages; return their bytes before and after."""
    some = pages[:: max(1, len(pages) // COMPRESSED)]
    return len(some) * PAGE, sum(len(zlib.compress(page, 1)) for page in some)


def delta(old: bytes, new: bytes) -> int:
    """Return about how many bytes the changes of a page take: each run of changed ones, and where it is."""
    differ = (int.from_bytes(old, "big") ^ int.from_bytes(new, "big")).to_bytes(PAGE, "big")
    runs = re.findall(rb"[^\0]+", differ)
    return min(PAGE, sum(map(len, runs)) + RUN_OVERHEAD * len(runs))


if __name__ == "__main__":
    main(*sys.argv[1:])
