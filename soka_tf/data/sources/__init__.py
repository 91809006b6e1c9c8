"""Where images come from: a source a file, whose `find` returns samples."""
