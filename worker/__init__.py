"""The worker: wake-ups, leases and the pipeline from claim to certificate."""
