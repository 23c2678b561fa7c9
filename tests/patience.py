"""Sets how long tests wait: long enough for a busy machine, short enough to notice a hang."""

PATIENCE = 1800  # seconds
