"""What QEMUs say of processors that guests could be given, and what many hosts have in common of that."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CpuDefinition:
    """A CPU model by name: the flags that it promises, and those of them that a QEMU cannot give on its host.

    `alias_of` is the version of it that the name stands for, empty where the name is no alias.
    """

    name: str
    vendor: str
    flags: frozenset[str]
    lacks: frozenset[str] = frozenset()
    alias_of: str = ""
    deprecated: bool = False


@dataclass(frozen=True, slots=True)
class CpuFacts:
    """What a QEMU says of guests' processors under one accelerator: all models, and all flags that it can give.

    `gives` is empty where the accelerator does not run.
    """

    models: tuple[CpuDefinition, ...] = ()
    gives: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class FlagLimit:
    """A flag that guests cannot have, and the hosts which cannot give it."""

    flag: str
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Baseline:
    """The largest CPU that every one of some hosts can give: a model by name, and what is added to and taken from it.

    `removed` are the flags of the model that some host lacks, `limits` the flags that some of the hosts have and
    others do not. `argument` is the value of QEMU's -cpu (with `enforce` QEMU refuses to start where a flag is
    missing), `xml` the same as libvirt's element `cpu`. `sources` says of each host what its part was read from,
    `notes` are what one has to know besides.
    """

    accelerator: str
    model: str
    vendor: str
    added: tuple[str, ...]
    removed: tuple[FlagLimit, ...]
    limits: tuple[FlagLimit, ...]
    sources: tuple[tuple[str, str], ...]
    argument: str
    xml: str
    notes: tuple[str, ...] = ()
