"""What the guest's clients felt: the outside probe, the figures of downtime, and the report."""
