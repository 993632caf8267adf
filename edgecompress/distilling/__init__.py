"""Train a student from a teacher, beside its control."""
