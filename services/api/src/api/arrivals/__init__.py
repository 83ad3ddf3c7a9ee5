"""What arrived, by which door, and what became of it and why: `/v1/arrivals`."""
