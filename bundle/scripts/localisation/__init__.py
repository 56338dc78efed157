"""Where the basal ganglia are in a scan that nobody annotated."""
