"""How much room a file takes, and how much memory a process."""

from __future__ import annotations

from typing import Final

USED: Final = r"""
blocks=$(stat -L -c '%b %B' -- "$1" 2>/dev/null) || blocks="0 0"
echo "$((${blocks% *} * ${blocks#* }))"
"""
"""$1 is a file; prints how many bytes it takes on its file system, 0 where there is none."""

RESIDENT: Final = r"""
while read -r name value _; do
    if [ "$name" = VmRSS: ]; then echo "$((value * 1024))"; exit 0; fi
done < "/proc/$1/status"
"""
"""$1 is a process; prints how many bytes of memory it has resident."""
