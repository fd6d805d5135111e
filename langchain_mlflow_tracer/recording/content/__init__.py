"""Copies of the values that runs take and return, in the shapes that MLflow shows."""
