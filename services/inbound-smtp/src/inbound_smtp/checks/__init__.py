"""What is refused before it is taken, and why.

paths.py     the arguments of MAIL and RCPT: syntax, parameters, forms of relaying
content.py   a message's octets: smuggling, loops, lines
"""
