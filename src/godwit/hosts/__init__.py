"""Machines that run guests: plain QEMU on this machine or over SSH, and a simulator."""
