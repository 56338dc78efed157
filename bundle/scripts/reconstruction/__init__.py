"""From the echoes of a gradient echo scan to QSM, R2*, T1-weighted, T1 and PD maps; a file a step."""
