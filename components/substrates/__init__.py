"""What the machines are made of."""
