"""Ranks that torchrun has started, on one machine or several (docs/machines.md).

environment   which process this is among those of torchrun
rendezvous    where they find each other
listener      who is let in by rank 0, by a token
launcher, agent   starts workers in the other processes; what those do for it
calls         one call, the same on all processes: rank 0 runs it, the others get what it gives
"""
