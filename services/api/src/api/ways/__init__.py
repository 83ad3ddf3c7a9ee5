"""Ways out: accounts at providers and smart hosts, and the routes that name them in order."""
