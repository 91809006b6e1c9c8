"""What tools/inject_faults.py does to runs."""
