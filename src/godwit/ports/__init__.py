"""What the engine needs of the world. Each port has a real implementation and one that ships for the simulation."""

from godwit.ports.around import Clock, Hypervisor, Log, RunnerLife, Runners, Signs, Watch, Watcher
from godwit.ports.devices import GivesDevices, HotPlugs
from godwit.ports.fencing import Fencer, Power
from godwit.ports.guest import Guest, GuestEvent, GuestEventKind
from godwit.ports.hooks import HookRun, Hooks
from godwit.ports.host import Addresses, Completed, Fence, Host, SaveFiles, Session, Transfers
from godwit.ports.journal import Archive, Decisions, Ended, Entry, History, Inventory, JobBook, Journal, MigrationRow
from godwit.ports.links import LooksAtLinks
from godwit.ports.network import Announces
from godwit.ports.trust import Authority, KeepsCredentials

__all__ = [
    "Addresses",
    "Announces",
    "Archive",
    "Authority",
    "Clock",
    "Completed",
    "Decisions",
    "Ended",
    "Entry",
    "Fence",
    "Fencer",
    "GivesDevices",
    "Guest",
    "GuestEvent",
    "GuestEventKind",
    "History",
    "HookRun",
    "Hooks",
    "Host",
    "HotPlugs",
    "Hypervisor",
    "Inventory",
    "JobBook",
    "Journal",
    "KeepsCredentials",
    "Log",
    "LooksAtLinks",
    "MigrationRow",
    "Power",
    "RunnerLife",
    "Runners",
    "SaveFiles",
    "Session",
    "Signs",
    "Transfers",
    "Watch",
    "Watcher",
]
