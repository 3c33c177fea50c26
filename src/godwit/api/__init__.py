"""Godwit for programs."""
