"""What is learned: splits, metrics, loaders and the checks that run before any training."""
