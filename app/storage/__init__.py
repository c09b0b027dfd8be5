"""The database (tables, repositories, unit of work, migrations) and the artifact store."""
