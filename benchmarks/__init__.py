"""Measurements of unlearning and of serving; nothing here runs in the service."""
