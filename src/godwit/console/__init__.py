"""The monitor of old: QEMU's human monitor commands as they once were, on a QEMU that dropped some of them."""
