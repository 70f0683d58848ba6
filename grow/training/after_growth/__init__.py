"""What training knows of the growth that made its checkpoint."""
