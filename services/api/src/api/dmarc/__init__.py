"""What receivers report of mail in the name of our domains (RFC 9990): who fails, from where, since when."""
