"""What every Postroom process has, knowing no mail.

process.py  start-up, signals, drain, exit: `run(name, settings, start)`
http.py     limits on a request's head
ops.py      the operations app: /livez, /readyz, /metrics, /drain
runner.py   a resident runner: wake, claim until nothing is due, look once more, sleep until the bell or the sweep
bells.py    the arq worker that answers bells and does chores
"""
