# The example of uWSGI's manual; here in examples/: spoolnode join -Q myspool -s /tmp/uwsgi.sock -b 8192 -w testapp -A 10
# In another terminal: spoolnode send --via /tmp/uwsgi.sock Name=Serena System=Linux Tizio=Caio
# ruff: noqa: B007, T201, I001 - as in the manual
# fmt: off
import time
import uwsgi

def myspooler(env):
    print(env)
    for i in range(1,100):
        time.sleep(1)

uwsgi.spooler = myspooler

uwsgi.send_to_spooler({'Name':'Serena', 'System':'Linux', 'Tizio':'Caio'})
