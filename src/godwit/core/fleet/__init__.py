"""Placing many guests on many hosts. Pure: a plan is a function of the fleet as it is known."""
