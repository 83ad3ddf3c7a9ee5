"""Messages and threads: `/v1/messages`, `/v1/threads`; images that mail names elsewhere: `/v1/images`."""
