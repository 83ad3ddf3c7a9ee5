"""What providers post about mail they took."""
