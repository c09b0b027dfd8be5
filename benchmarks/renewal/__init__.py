"""Simulate a year of deletions and renewals with measured costs."""
