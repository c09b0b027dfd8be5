"""Propose candidate items from statistics that follow the change log of the database."""
