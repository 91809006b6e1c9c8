"""Commands for a user's own work around soka_tf: studies, benchmarks, files."""
