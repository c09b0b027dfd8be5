"""Run this gateway as a replica: hold a lease, load releases, switch the live model."""
