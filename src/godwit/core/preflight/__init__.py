"""What would make a migration fail or hurt, found before anything is changed: a file per subject, a row per check."""

from godwit.core.preflight.check import Evidence, blocking, check, check_upgrade

__all__ = ["Evidence", "blocking", "check", "check_upgrade"]
