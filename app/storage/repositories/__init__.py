"""All database queries, one module per subject.

Every method runs one query or one conditional update inside the transaction of its unit of work,
and never commits. Methods that compare times use the clock of the database.
"""
