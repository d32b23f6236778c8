"""An M/M/10 queue at 60 % of load in SimPy and salabim: calls of it that are
simulated in a second of processor time, one line each. What is not installed
is left out.

    pip install simpy salabim
    python3 queues.py [CALLS]
"""

import random
import sys
import time

CALLS = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
SERVERS, SERVICE, LOAD = 10, 0.01, 0.6
BETWEEN = SERVICE / SERVERS / LOAD


def with_simpy():
    import simpy

    env, draw = simpy.Environment(), random.Random(1)
    servers = simpy.Resource(env, SERVERS)

    def call():
        with servers.request() as place:
            yield place
            yield env.timeout(draw.expovariate(1 / SERVICE))

    def calls():
        for _ in range(CALLS):
            env.process(call())
            yield env.timeout(draw.expovariate(1 / BETWEEN))

    env.process(calls())
    env.run()


def with_salabim():
    import salabim

    salabim.yieldless(False)
    env, draw = salabim.Environment(trace=False), random.Random(1)
    servers = salabim.Resource("servers", capacity=SERVERS)

    class Call(salabim.Component):
        def process(self):
            yield self.request(servers)
            yield self.hold(draw.expovariate(1 / SERVICE))

    class Calls(salabim.Component):
        def process(self):
            for _ in range(CALLS):
                Call()
                yield self.hold(draw.expovariate(1 / BETWEEN))

    Calls()
    env.run()


for name, play in (("simpy", with_simpy), ("salabim", with_salabim)):
    began = time.process_time()
    try:
        play()
    except ImportError:
        print(f"{name},not installed")
        continue
    print(f"{name},{CALLS / (time.process_time() - began):.0f}")
