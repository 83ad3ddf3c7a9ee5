"""People: signing up and in, the cookie of a browser and the token of a program, who they are and where they are signed in."""
