"""What is known of a normal head: atlas and template."""
