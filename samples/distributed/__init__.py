"""Two services, one of which calls the other: one request, one trace."""
