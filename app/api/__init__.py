"""HTTP: routes, schemas, dependencies and problems. What is decided is decided in the services."""
