"""Tells forgetting from doing nothing, and from overdoing it."""
