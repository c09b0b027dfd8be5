"""What Lethe is about: requests, jobs, releases and their legal transitions; no HTTP or SQL."""
