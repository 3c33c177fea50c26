"""Through which process a connection of ours acts on a host, and ending such processes with proof.

sshd gives each connection a process, which starts each command as a session leader of its own: the leader's parent is
the connection's. Killed, it takes along what still waits in its sockets; what it has begun already is waited for, and
killed when it takes long. So nothing of a former connection can happen once that is done, whatever becomes of whoever
holds its other end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from godwit.errors import HostError
from godwit.hosts.shell import run_script, words_of
from godwit.ports import Session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from godwit.hosts.shell import Runs

_GRACE: Final = 5
"""Seconds that a command which was begun already may take to its end."""

_DEADLINE: Final = 20.0

_FIELDS: Final = r"""
fields() {
    parent= leader= started= state=gone
    { read -r stat < "/proc/$1/stat"; } 2>/dev/null || return 1
    set -- ${stat##*) }
    state=$1 parent=$2 leader=$4
    shift 19
    started=$1
}
"""
"""Defines a function that reads parent, session leader and start of the process $1; see proc_pid_stat(5)."""

_WHO: Final = (
    _FIELDS
    + r"""
fields $$ && fields "$leader" && session=$parent && fields "$session" || exit 1
read -r boot < /proc/sys/kernel/random/boot_id
echo "$boot $session $started"
"""
)

_END: Final = (
    _FIELDS
    + r"""
lives() { fields "$1" && [ "$started" = "$2" ] && [ "$state" != Z ]; }
grace=$1
shift
family=
for one in "$@"; do
    pid=${one%:*}
    lives "$pid" "${one#*:}" || continue
    kill -STOP "$pid" 2>/dev/null
    wave=$pid
    while [ -n "$wave" ]; do
        next=
        for child in $(cat /proc/[0-9]*/stat 2>/dev/null | sed -n 's/^\([0-9]*\) (.*) . \([0-9]*\) .*/\1:\2/p'); do
            case " $wave " in
                *" ${child#*:} "*)
                    fields "${child%:*}" || continue
                    family="$family ${child%:*}:$started" next="$next ${child%:*}"
                    ;;
            esac
        done
        wave=${next# }
    done
    kill -KILL "$pid" || exit 1
done
all_gone() {
    for one in "$@"; do
        ! lives "${one%:*}" "${one#*:}" || return 1
    done
}
waited=0
until all_gone $family "$@"; do
    sleep 0.05
    waited=$((waited + 1))
    [ $waited -eq $((grace * 20)) ] && for one in $family; do
        lives "${one%:*}" "${one#*:}" && kill -KILL "${one%:*}" 2>/dev/null
    done
    [ $waited -lt $((grace * 20 + 60)) ] || { echo "still there:" $family "$@" >&2; exit 1; }
done
"""
)


async def session_of(runs: Runs) -> Session:
    """Return the session of the connection that `runs` uses. Raises HostError where it cannot be found."""
    completed = await run_script(runs, _WHO, check=False)
    words = completed.stdout.decode(errors="replace").split()
    try:
        boot, pid, started = words
        return Session(boot, int(pid), int(started))
    except ValueError:
        message = f"{runs.where} does not show which process serves its connection: {words_of(completed)}"
        raise HostError(message, remedy="see whether /proc is mounted there, and shows processes (hidepid)") from None


async def end_sessions(runs: Runs, here: Session, sessions: Sequence[Session]) -> None:
    """End these sessions, as far as they are of this boot of the host; returns with proof. Raises HostError."""
    mine = [f"{one.pid}:{one.started}" for one in sessions if one.boot == here.boot]
    if not mine:
        return
    completed = await run_script(runs, _END, str(_GRACE), *mine, deadline=_DEADLINE, check=False)
    if completed.status != 0:
        message = f"a former connection to {runs.where} could not be ended: {words_of(completed)}"
        raise HostError(message, remedy=f"end these processes by hand: {', '.join(mine)} (pid:start)")
