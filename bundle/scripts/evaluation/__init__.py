"""Predictions of held-out scans and what they are worth."""
