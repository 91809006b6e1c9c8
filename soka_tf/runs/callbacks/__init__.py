"""What a run does beside its steps, a kind of callback a file."""
