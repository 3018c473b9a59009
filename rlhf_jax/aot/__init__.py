"""Requirements of a run on TPUs that are not here, found by compiling its programs ahead of time."""
