"""Runs one migration: the only interpreter of the machine's commands."""
