"""Ways out by a provider's API: each vendor a folder, and one line in `registry`.

1. `base`      what a vendor is: an `Account` (settings and secrets) that makes a `Sender` and perhaps an `EventSource`
2. `client`    the one HTTP client: knows whether a request can have been heard
3. `mapped`    a composed message as the fields that vendors without a MIME API take
4. `registry`  the vendors by name

A Sender and an EventSource are functions of their arguments: a mail in, a request out; an answer in, a verdict out; a post in,
events out. They talk to nobody, so that the fixtures beside them (recorded from the vendor's own documentation) test them whole.
"""
