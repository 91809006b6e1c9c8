"""Optimizers, schedules, callbacks and the run that survives a kill."""
