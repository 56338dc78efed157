"""What every long command does: claim its folder, go on where it stopped, note failures."""
