"""JSON bodies of requests and responses, one module per resource.

Unknown fields in a request are refused. Times are RFC 3339 in UTC.
"""
