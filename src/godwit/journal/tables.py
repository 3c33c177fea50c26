"""The tables. Values are stored as JSON text; columns exist for what is searched by."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Integer, MetaData, String, Table, Text

metadata = MetaData()

migrations = Table(
    "migrations",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("vm", String(128), nullable=False, index=True),
    Column("created", Float, nullable=False),
    Column("spec", Text, nullable=False),
    Column("phase", String(32), nullable=False, index=True),
    Column("epoch", Integer, nullable=False, default=0),
    Column("state", Text, nullable=False),
    Column("outcome", Text),
    Column("cancel_by", Text),
    Column("cancel_at", Float),
)

entries = Table(
    "entries",
    metadata,
    Column("migration", String(64), primary_key=True),
    Column("sequence", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("data", Text, nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    Column("migration", String(64), primary_key=True),
    Column("place", String(128), primary_key=True),
    Column("boot", String(64), primary_key=True),
    Column("pid", Integer, primary_key=True),
    Column("started", BigInteger, primary_key=True),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("vm", String(128), nullable=False, index=True),
    Column("created", Float, nullable=False),
    Column("finished", Integer, nullable=False, index=True),
    Column("epoch", Integer, nullable=False, default=0),
    Column("job", Text, nullable=False),
    Column("cancel", Integer, nullable=False, default=0),
)

hosts = Table(
    "hosts",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("record", Text, nullable=False),
)

vms = Table(
    "vms",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("record", Text, nullable=False),
)

sends = Table(
    "sends",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("record", Text, nullable=False),
)

words = Table(
    "words",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("record", Text, nullable=False),
)

proofs = Table(
    "proofs",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("record", Text, nullable=False),
)

history = Table(
    "history",
    metadata,
    Column("kind", String(16), primary_key=True),
    Column("name", String(160), primary_key=True),
    Column("vm", String(128), nullable=False, index=True),
    Column("at", Float, nullable=False, index=True),
    Column("record", Text, nullable=False),
)
