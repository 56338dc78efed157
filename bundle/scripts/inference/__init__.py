"""A batch of new scans: what is asked for, what is read, what is written."""
