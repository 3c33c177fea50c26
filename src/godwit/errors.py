"""Every error that Godwit raises on purpose.

GodwitError
├── InputError                what the user typed cannot be meant          exit 2
│   ├── InvalidNameError
│   ├── InvalidDefinitionError
│   ├── UnknownVmError
│   ├── UnknownHostError
│   ├── UnknownMigrationError
│   └── UnknownSnapshotError
├── RefusedError              preflight found what would fail or hurt      exit 3
├── BusyError                 somebody else holds the guest                exit 4
│   └── RunnerStuckError      its runner is there and does nothing
├── HostError                 a host does not do what a host does          exit 5
│   ├── HostUnreachableError
│   ├── HostKeyError
│   ├── AuthenticationError
│   ├── RemoteCommandError
│   └── FenceError            a host's power cannot be cut, or its being off not be proven
├── HypervisorError           QEMU does not do what QEMU does              exit 6
│   ├── QemuMissingError
│   ├── QemuDiedError
│   ├── MonitorBusyError
│   ├── MonitorProtocolError
│   ├── MonitorLostError
│   └── MonitorCommandError
├── MigrationFailedError      the guest runs on, on its source             exit 7
├── MigrationCancelledError   as asked                                     exit 8
├── LimboError                nobody can know who owns the guest           exit 9
├── GuestCrashedError         the guest ran on the target and is gone      exit 10
├── DisksUnverifiedError      the guest moved; its disks differ, or nobody knows   exit 16
├── JournalError              the journal cannot be read or written        exit 11
│   └── SupersededError       another runner took the migration over
├── ProbeError                the outside probe cannot see                 exit 12
├── TlsError                  certificates cannot be made or used          exit 17
├── LabError                  the laboratory cannot be made or found       exit 13
└── SaveError                 a guest cannot be saved, or brought back     exit 14
    ├── SaveFailedError
    ├── SaveCancelledError
    └── SaveFileError

A message says what is wrong and where; `remedy` says what mends it.
"""

from __future__ import annotations

from typing import ClassVar

from godwit.plaintext import masked, shortened


class GodwitError(Exception):
    """Godwit cannot go on.

    `code` is stable and meant for programs; `exit_status` is what the command line ends with;
    `remedy` is a sentence or a command that mends the matter, empty where none is known.
    """

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        """Keep the message for people and the remedy beside it, at most `plaintext.LONGEST` characters of each."""
        self.message = shortened(masked(message))
        self.remedy = shortened(masked(remedy))
        super().__init__(self.message)

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling with the remedy intact."""
        return (_rebuild, (type(self), self.message, self.remedy))


def error_of_code(code: str, message: str, remedy: str = "") -> GodwitError:
    """Return the error that was written down by its code; a plain GodwitError for a code that nobody knows."""
    kinds = [GodwitError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    kind = next((kind for kind in kinds if kind.code == code), GodwitError)
    return kind(message, remedy=remedy)


def _rebuild(kind: type[GodwitError], message: str, remedy: str) -> GodwitError:
    return kind(message, remedy=remedy)


class InputError(GodwitError):
    """What was asked for cannot be meant."""

    code = "input"
    exit_status = 2


class InvalidNameError(InputError):
    """A name has characters or a length that no name may have."""

    code = "invalid-name"


class InvalidDefinitionError(InputError):
    """A definition file is malformed; the message names line or key."""

    code = "invalid-definition"


class UnknownVmError(InputError):
    """No guest of this name is known."""

    code = "unknown-vm"


class UnknownHostError(InputError):
    """No host of this name is known."""

    code = "unknown-host"


class UnknownMigrationError(InputError):
    """No migration has this identifier."""

    code = "unknown-migration"


class UnknownSnapshotError(InputError):
    """The guest has no snapshot of this name."""

    code = "unknown-snapshot"


class RefusedError(GodwitError):
    """Preflight found what would make the migration fail or hurt; nothing was changed."""

    code = "refused"
    exit_status = 3


class BusyError(GodwitError):
    """The guest is being migrated already, or somebody else holds its lock."""

    code = "busy"
    exit_status = 4


class RunnerStuckError(BusyError):
    """The runner of a migration, save or restore is there and does nothing."""

    code = "runner-stuck"


class HostError(GodwitError):
    """A host does not answer or does not do what was asked."""

    code = "host"
    exit_status = 5


class HostUnreachableError(HostError):
    """The host cannot be reached, or the connection to it was lost."""

    code = "host-unreachable"


class HostKeyError(HostError):
    """The host's key is unknown or is not the one that was recorded."""

    code = "host-key"


class AuthenticationError(HostError):
    """The host refused every key that was offered."""

    code = "authentication"


class RemoteCommandError(HostError):
    """A command on the host failed; its status and error output are in the message."""

    code = "remote-command"


class FenceError(HostError):
    """A host's power could not be cut, or nothing proves that it is off."""

    code = "fence"


class HypervisorError(GodwitError):
    """QEMU refused, died or cannot be spoken to."""

    code = "hypervisor"
    exit_status = 6


class QemuMissingError(HypervisorError):
    """The host has no QEMU, or one that is too old."""

    code = "qemu-missing"


class QemuDiedError(HypervisorError):
    """QEMU ended; its last words are in the message."""

    code = "qemu-died"


class MonitorBusyError(HypervisorError):
    """A QMP socket accepts the connection but stays silent: another client holds it."""

    code = "monitor-busy"


class MonitorProtocolError(HypervisorError):
    """What answers at the socket does not speak QMP."""

    code = "monitor-protocol"


class MonitorLostError(HypervisorError):
    """The QMP connection ended; whether QEMU still lives is unknown."""

    code = "monitor-lost"


class MonitorCommandError(HypervisorError):
    """QEMU answered a command with an error."""

    code = "monitor-command"


class MigrationFailedError(GodwitError):
    """The migration failed; the guest runs on, on its source."""

    code = "migration-failed"
    exit_status = 7


class MigrationCancelledError(GodwitError):
    """The migration was cancelled; the guest runs on, on its source."""

    code = "migration-cancelled"
    exit_status = 8


class LimboError(GodwitError):
    """Nobody can know which host owns the guest; Godwit touches nothing until a person decides."""

    code = "limbo"
    exit_status = 9


class GuestCrashedError(GodwitError):
    """The guest ran on the target and is gone there; the source is stale and stays stopped."""

    code = "guest-crashed"
    exit_status = 10


class DisksUnverifiedError(GodwitError):
    """The guest runs on the target, and its copied disks differ from the source's, or could not be compared."""

    code = "disks-unverified"
    exit_status = 16


class JournalError(GodwitError):
    """The journal cannot be read or written."""

    code = "journal"
    exit_status = 11


class SupersededError(JournalError):
    """Another runner took this migration over; this one may do nothing any more."""

    code = "superseded"


class ProbeError(GodwitError):
    """The outside probe cannot start, or sees nothing."""

    code = "probe"
    exit_status = 12


class TlsError(GodwitError):
    """Certificates cannot be made, read or used; what was to be encrypted was not sent."""

    code = "tls"
    exit_status = 17


class LabError(GodwitError):
    """The laboratory cannot be made, found or taken down."""

    code = "lab"
    exit_status = 13


class SaveError(GodwitError):
    """A guest cannot be saved to a file, or brought back from it."""

    code = "save"
    exit_status = 14


class SaveFailedError(SaveError):
    """A save or a restore failed; what it began was taken back, as the message says."""

    code = "save-failed"


class SaveCancelledError(SaveError):
    """A save or a restore was cancelled; what it began was taken back."""

    code = "save-cancelled"


class SaveFileError(SaveError):
    """A file is no save, is damaged, or does not belong to the disks as they are now."""

    code = "save-file"
