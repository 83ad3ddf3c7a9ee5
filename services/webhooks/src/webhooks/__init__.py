"""webhooks: posts events to the endpoints that asked for them.

    settings.py   what it reads from the environment
    main.py       the composition root
    runner.py     claims due rows by endpoint, posts each in a task of its own, settles; tells owners of disabled endpoints
    endpoints.py  how many posts each endpoint may have in flight, so that one that hangs delays no other
    names.py      which resolver endpoints' names go to
    post.py       one post: compose, sign, send, judge the answer

Signatures: Standard Webhooks 1.0, under its own header names and those of Svix, and MailIt's. Every post goes through kit.guard.
"""
