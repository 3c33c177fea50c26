"""What the engine needs of the world. Each port has a real implementation and one that ships for the simulation."""

from godwit.ports.around import Clock, Hypervisor, Runners, Watch, Watcher
from godwit.ports.guest import Guest, GuestEvent, GuestEventKind
from godwit.ports.host import Addresses, Completed, Host, SaveFiles, Transfers
from godwit.ports.journal import Entry, History, Inventory, JobBook, Journal, MigrationRow

__all__ = [
    "Addresses",
    "Clock",
    "Completed",
    "Entry",
    "Guest",
    "GuestEvent",
    "GuestEventKind",
    "History",
    "Host",
    "Hypervisor",
    "Inventory",
    "JobBook",
    "Journal",
    "MigrationRow",
    "Runners",
    "SaveFiles",
    "Transfers",
    "Watch",
    "Watcher",
]
