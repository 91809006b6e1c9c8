"""The comparison of docs/study/protocol.md: planned, trained, recorded, reported."""
