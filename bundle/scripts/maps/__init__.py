"""A cohort on disk and its scans' way to the network's input."""
