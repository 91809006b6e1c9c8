"""How the tasks are balanced: one rule a file, behind the interface of `rule.py`."""
