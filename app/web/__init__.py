"""Pages for people: the files of the dashboard, and the page of a certificate."""
