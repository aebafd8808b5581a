"""What a run needs of hardware that is not there: compiled for it, read off, never run."""
