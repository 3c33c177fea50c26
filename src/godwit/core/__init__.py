"""Pure decisions: facts and events in, commands with reasons out. No clock, socket, log or chance in here."""
