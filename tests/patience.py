"""How long tests wait for something to happen: a busy machine is no failure, and a hang is one."""

PATIENCE = 1800  # seconds
