"""Everything Godwit knows about QEMU: its monitor, its command line, its versions."""
