"""The replica: its lease, the releases it loads, and the switch of its live model."""
