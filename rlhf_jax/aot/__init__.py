"""What a run would need on TPUs that are not here, found by compiling its programs ahead of time."""
