"""The journal of migrations and the inventory of hosts and guests: on SQLite, and in memory for the simulation."""
