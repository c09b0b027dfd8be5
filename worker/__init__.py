"""The worker processes: the job pipeline, its loop, the relay to the broker, and imports."""
