"""Pruning of channels while training, and the compaction that makes it physical."""
