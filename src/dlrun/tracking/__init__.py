"""What a run leaves behind: its directory, history, TensorBoard files and provenance."""
