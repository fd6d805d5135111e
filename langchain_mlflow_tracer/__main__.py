"""Runs the command: `python -m langchain_mlflow_tracer`."""

from __future__ import annotations

from langchain_mlflow_tracer.cli import main

if __name__ == "__main__":
    main(prog_name="langchain-mlflow-tracer")
