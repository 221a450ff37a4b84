"""Training and generation on one GPU, each beside an alternative in the same run."""
