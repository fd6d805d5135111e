"""What every folder uses: records, errors, attribute names, JSON text, the log. Imports nothing of ours."""
