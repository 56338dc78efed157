"""The networks, their weights' way in and their outputs' way out."""
