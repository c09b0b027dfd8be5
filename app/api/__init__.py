"""HTTP interface: routes, schemas, dependencies and problems. Decisions are in the services."""
