"""What gives a release's scores: torch in this process, or an engine elsewhere."""
