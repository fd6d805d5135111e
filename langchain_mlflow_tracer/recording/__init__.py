"""Room 1, on the caller's thread: records runs as spans, in microseconds, without disk, network or mlflow."""
