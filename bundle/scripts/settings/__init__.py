"""What a user typed, checked before work starts."""
