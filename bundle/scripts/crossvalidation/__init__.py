"""Cross-validation by subject: folds, where they run, and what they give together."""
