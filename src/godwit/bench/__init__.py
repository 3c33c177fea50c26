"""Moves of many guests by many means, side by side: what each costs, and what a client and the guest feel."""
