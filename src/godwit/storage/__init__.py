"""Disks of guests: which are shared between hosts, and what is done about the others."""
