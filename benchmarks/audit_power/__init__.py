"""Measure how often the audit passes or fails honest candidates and fakes."""
