"""Where data lives: tables, queries, units of work, migrations and artefacts."""
