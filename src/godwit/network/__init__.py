"""Network interfaces of guests on their hosts."""
