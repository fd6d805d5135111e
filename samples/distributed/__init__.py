"""Two services, one of which calls the other: one request becomes one trace."""
