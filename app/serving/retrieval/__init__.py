"""The first stage of a replica: the candidate index kept in step with the database."""
