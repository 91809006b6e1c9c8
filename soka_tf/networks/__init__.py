"""Pure architectures: no task names, no files, no losses."""
